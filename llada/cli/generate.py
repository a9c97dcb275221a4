"""``llada generate``: answer a file of prompts.

    llada generate LLaDA-8B-Instruct questions.jsonl answers.jsonl --batch_size 16 --num_new_tokens 256

Both are JSON Lines. A line of the input is ``{"prompt": "..."}``, which is continued as it stands, or ``{"messages":
[{"role": "user", "content": "..."}, ...]}``, which goes through the chat template; an ``"id"`` may name it, or else its
number from 0 does. A line of the output is ``{"id", "text", "num_tokens", "calls", "seed"}``.

Rows are computed in the order of their lengths, and an interrupted run goes on where it stopped. Row i has the seed
``seed + i``, so neither batches nor interruptions change what is written, up to the rounding of the model.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llada.cli.dialogue import answer_sampler, choose_template, context_length, stop_tokens, until_stop
from llada.cli.expression import matching
from llada.cli.options import run
from llada.cli.released import name_positional
from llada.cli.text import Loaded, begin, expand_sampler, load
from llada.data import ChatTemplate, JsonLines, Message
from llada.data.sources import text_field
from llada.files.json_object import parse_object
from llada.samplers import Sampler, canvas


class Row(NamedTuple):
    """A prompt to be answered, with the seed that belongs to its place in the file."""

    name: int | str
    seed: int
    ids: list[int]


def generate(
    checkpoint: str,
    input: str,
    output: str,
    num_new_tokens: int = 128,
    batch_size: int = 8,
    sampler: Sampler | None = None,
    regex: str | None = None,
    template: ChatTemplate | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Answer a file of prompts; run it again to go on after an interruption.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        input: JSON Lines file of objects with "prompt" or "messages", and an "id" if they have names.
        output: JSON Lines file that answers are added to; rows whose ids are in it are left out.
        num_new_tokens: tokens of an answer.
        batch_size: rows per model call; changes speed and memory only.
        sampler: how to decode: a preset such as low_confidence, or a class path; default: the model's own, or for a
            released checkpoint one token per call in blocks of 32 up to EOS.
        regex: regular expression that every answer matches as a whole; needs the extra llada[regex].
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        seed: of the first row of the input; the next one has the next seed.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: of the weights, such as bfloat16; default: as they are stored.
    """
    for name, value in (("num_new_tokens", num_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}")
    loaded = load(checkpoint, tokenizer, device, dtype)
    rows = list(_rows(input, loaded, template, seed))
    _check(rows, input, context_length(loaded, None), num_new_tokens)
    done = repair(Path(output))
    _check_done(done, rows, output)
    left = sorted((row for row in rows if row.name not in done), key=lambda row: (len(row.ids), row.seed))
    stops = _stops(loaded, template)
    decoding = answer_sampler(sampler, checkpoint, loaded.tokenizer, num_new_tokens)
    decoding = matching(decoding, regex, loaded, stops)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress, Path(output).open("ab", buffering=0) as file:
        task = progress.add_task("answers", total=len(rows), completed=len(done))
        for start in range(0, len(left), batch_size):
            for entry in _answers(loaded, left[start : start + batch_size], num_new_tokens, decoding, stops):
                append(file.fileno(), entry)
                progress.advance(task)
    print(f"{len(left)} answers written to {output}" + (f", {len(done)} were there" if done else ""))


def _stops(loaded: Loaded, template: ChatTemplate | None) -> frozenset[int]:
    """Where answers end; the checkpoint's own template has a say if there is one."""
    own = getattr(loaded.tokenizer, "chat_template", None)
    chosen = choose_template(template, loaded.tokenizer) if template is not None or own is not None else None
    return stop_tokens(loaded.tokenizer, chosen)


def _rows(path: str, loaded: Loaded, template: ChatTemplate | None, seed: int) -> Iterator[Row]:
    for index, (where, record) in enumerate(JsonLines(path).records()):
        name = record.get("id", index)
        if isinstance(name, bool) or not isinstance(name, int | str):
            raise ValueError(f"{where}: an id must be a number or text; got {name!r}")
        if ("prompt" in record) == ("messages" in record):
            raise ValueError(f"{where}: there must be either a 'prompt' or 'messages'")
        try:
            yield Row(name, seed + index, _encode(record, where, loaded, template))
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(where) else f"{where}: {message}") from error


def _encode(record: dict[str, Any], where: str, loaded: Loaded, template: ChatTemplate | None) -> list[int]:
    if "prompt" in record:
        if not isinstance(record["prompt"], str):
            raise ValueError(f"{where}: field 'prompt' must be text; got {type(record['prompt']).__name__}")
        return begin(loaded, loaded.tokenizer.encode(record["prompt"]))
    if not isinstance(record["messages"], list) or not record["messages"]:
        raise ValueError(f"{where}: field 'messages' must be a list with at least one message")
    messages = []
    for entry in record["messages"]:
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: a message must be an object with 'role' and 'content'")
        messages.append(Message(text_field(entry, "role", where), text_field(entry, "content", where)))
    return choose_template(template, loaded.tokenizer).prompt(messages, loaded.tokenizer)


def _check(rows: list[Row], path: str, context: int | None, num_new_tokens: int) -> None:
    seen: set[int | str] = set()
    for row in rows:
        if row.name in seen:
            raise ValueError(f"{path}: the id {row.name!r} occurs twice; rows are told apart by it")
        seen.add(row.name)
        if context is not None and len(row.ids) + num_new_tokens > context:
            raise ValueError(
                f"{path}: row {row.name!r} has {len(row.ids)} tokens, which with {num_new_tokens} new ones is more "
                f"than the model's {context}; shorten it, or ask for fewer with --num_new_tokens"
            )


def _check_done(done: dict[int | str, dict[str, Any]], rows: list[Row], output: str) -> None:
    """Refuse to mix two runs in a file."""
    seeds = {row.name: row.seed for row in rows}
    for name, entry in done.items():
        if name not in seeds:
            raise ValueError(f"{output} has a row {name!r} that the input hasn't; it belongs to another input")
        if entry.get("seed") != seeds[name]:
            raise ValueError(
                f"{output} has row {name!r} with seed {entry.get('seed')}, but here it gets {seeds[name]}; give the "
                "seed and the input with which it was begun, or another output"
            )


def repair(path: Path) -> dict[int | str, dict[str, Any]]:
    """Read the rows of an output file by id, and cut off a last line that was not finished.

    Args:
        path: may be missing.

    Raises:
        ValueError: if another line is malformed.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = parse_object(line, f"{path}, line {number}")
            rows[entry["id"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: no answer with an 'id'; is it an output of this command?"
            ) from error
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return rows


def append(descriptor: int, entry: dict[str, Any]) -> None:
    """Add a line to a file in one piece, and wait until it is on the disk."""
    line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)


def _answers(
    loaded: Loaded, rows: list[Row], num_new_tokens: int, sampler: Sampler | None, stops: frozenset[int]
) -> Iterator[dict[str, Any]]:
    """Answer one batch."""
    mask = loaded.model.process.mask_token_id
    # Padding is hidden from attention, so any token but the mask will do.
    pad = loaded.tokenizer.pad_token_id
    made = canvas(
        [row.ids for row in rows],
        num_new_tokens,
        mask_token_id=mask,
        pad_token_id=int(mask == 0) if pad is None else pad,
        device=loaded.model.device,
    )
    seeds = torch.tensor([row.seed for row in rows], device=loaded.model.device)
    filled = loaded.model.generate(*made, sampler=sampler, seed=seeds)
    for row, tokens, calls in zip(rows, filled.tokens.tolist(), filled.calls.tolist(), strict=True):
        ids = until_stop(tokens[-num_new_tokens:], stops)
        text = loaded.tokenizer.decode(ids)
        yield {"id": row.name, "text": text, "num_tokens": len(ids), "calls": calls, "seed": row.seed}


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    named = name_positional(arguments, "checkpoint", "input", "output")
    run(generate, command, expand_sampler(named))
