"""``llada serve``: a page where a person watches a model think, and an API of OpenAI's kind.

    llada serve demo/model.ckpt
    llada serve LLaDA-8B-Instruct --sampler fast_dllm --port 8080
    LLADA_TOKEN=secret llada serve LLaDA-8B-Instruct --host 0.0.0.0

It listens to this machine alone unless a host is named, and to others only with a token.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges, changed
from llada.cli.devices import usable
from llada.cli.dialogue import answer_sampler, with_bos
from llada.cli.kinds import Checkpoint, InputFolder
from llada.cli.options import run
from llada.data import ChatTemplate
from llada.samplers import Sampler
from llada.serving import Limits, Service, build_app
from llada.text import load

TOKEN = "LLADA_TOKEN"


def serve(
    checkpoint: Checkpoint,
    host: str = "127.0.0.1",
    port: int = 8000,
    sampler: Sampler | None = None,
    num_new_tokens: int = 128,
    max_new_tokens: int = 4096,
    batch_size: int = 8,
    queue_limit: int = 64,
    name: str | None = None,
    template: ChatTemplate | None = None,
    variables: dict[str, Any] | None = None,
    bos: bool | None = None,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
) -> None:
    """Serve a model: a page that shows it write, and completions in OpenAI's form.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        host: address to listen at; any but this machine's own needs a token in the environment, as LLADA_TOKEN.
        port: number of the port; 0 for any that is free.
        sampler: how to decode where a request doesn't say: a preset such as low_confidence, or a class path.
        num_new_tokens: tokens of an answer where a request doesn't say.
        max_new_tokens: tokens that a request may ask for.
        batch_size: rows per model call; changes speed and memory only.
        queue_limit: rows that may wait; further requests are told to come back (503).
        name: of the model, as clients see it; default: that of the checkpoint.
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        variables: what a template in Jinja sees besides, such as '{"enable_thinking": false}'.
        bos: whether rows begin with BOS; default: as the tokenizer, or for messages the template, has it.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("llada serve needs starlette and uvicorn: pip install llada[serve]") from error
    token = os.environ.get(TOKEN) or None
    if not _is_own(host) and token is None:
        raise ValueError(
            f"--host {host} lets other machines in; set a token that they must send: {TOKEN}=... llada serve"
        )
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535; got {port}")
    limits = Limits(num_new_tokens, max_new_tokens)
    text = load(checkpoint, tokenizer, usable(device), dtype, loading)
    text = with_bos(replace(text, template=template, variables=variables or {}), bos)
    text = replace(text, sampler=answer_sampler(sampler, checkpoint, text, num_new_tokens))
    text = changed(text, changes)
    service = Service(text, name or Path(checkpoint).stem, limits, batch_size, queue_limit, token)
    shown = f"[{host}]" if ":" in host else host
    print(f"the page: http://{shown}:{port}/   the API: http://{shown}:{port}/v1   (Ctrl-C ends)", flush=True)
    uvicorn.run(build_app(service), host=host, port=port, log_level="warning", server_header=False)


def _is_own(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(serve, command, arguments)
