"""``llada convert``: between the layouts of released checkpoints, and to and from the Trainer's files.

    llada convert run/last.ckpt my-model --dtype bfloat16
    llada convert LLaDA-8B-Base start.ckpt
    llada fit --config start.json --config data.yaml

A target that ends in ``.ckpt`` is a file that `DiffusionLM.load_from_checkpoint` reads, and beside it comes a
configuration that begins training with it; any other is a folder with ``config.json``, ``model.safetensors`` and the
tokenizer's files.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.checkpoints.describe import describe
from llada.cli.options import name_positional, run
from llada.data import Tokenizer, load_tokenizer
from llada.files.atomic import replacing, write_bytes
from llada.files.json_object import read_object
from llada.module import DiffusionLM
from llada.text.loading import load_parts
from llada.text.released import torch_dtype


def convert(
    checkpoint: str,
    out: str,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    layout: str | None = None,
    tokenizer: str | None = None,
    mdlm: bool = False,
) -> None:
    """Write a checkpoint in another layout.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        out: folder to be made, or a file ending in .ckpt.
        dtype: to which the weights are converted, such as bfloat16; default: as they are stored.
        max_shard_size: largest file of weights in a folder, such as 500MB or 5GB.
        layout: names and shapes of which family, such as llada; default: the one that the model's parts call for.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint, if there is one.
        mdlm: the checkpoint is a training file of the official MDLM code; its averaged weights are taken.
    """
    if Path(out).exists() and (Path(out).is_file() or any(Path(out).iterdir())):
        raise ValueError(f"{out} is there already; name a folder or file that isn't")
    if mdlm:
        if not checkpoint.endswith(".ckpt"):
            raise ValueError(f"--mdlm reads a .ckpt file of the official code; got {checkpoint}")
        model = DiffusionLM.from_pretrained(checkpoint, dtype=torch_dtype(dtype))
        own_tokenizer = None if tokenizer is None else load_tokenizer(tokenizer, mask=model.process.mask_token_id)
    else:
        model, own_tokenizer = load_parts(checkpoint, tokenizer, "cpu", dtype)
    if out.endswith(".ckpt"):
        _write_trainer_file(model, own_tokenizer, Path(out))
    else:
        _write_folder(model, own_tokenizer, Path(out), max_shard_size, layout)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{total:,} parameters written to {out}")


def _write_folder(
    model: DiffusionLM, tokenizer: Tokenizer | None, out: Path, max_shard_size: str, layout: str | None
) -> None:
    model.save_pretrained(out, layout=layout, tokenizer=tokenizer, max_shard_size=max_shard_size)
    if tokenizer is None:
        return
    # Other programs read these from the model's configuration; a model of ours leaves them to the tokenizer.
    config = read_object(out / "config.json")
    for name in ("eos_token_id", "pad_token_id"):
        if config.get(name) is None:
            config[name] = getattr(tokenizer, name)
    write_bytes(out / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _write_trainer_file(model: DiffusionLM, tokenizer: Tokenizer | None, out: Path) -> None:
    """What a checkpoint of the Trainer holds beside the state of a training run."""
    content = {
        "state_dict": model.state_dict(),
        PARTS_KEY: stored_parts(model, tokenizer),
        "epoch": 0,
        "global_step": 0,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        torch.save(content, file)
    write_bytes(out.with_suffix(".json"), _configuration(model, out).encode())


def _configuration(model: DiffusionLM, out: Path) -> str:
    """Options of ``llada fit`` with the parts that belong to the weights.

    The size of the vocabulary and the mask aren't among it: they come from the data, by way of its tokenizer.
    """
    parts = describe(model)["init_args"]
    backbone, process = parts["backbone"], parts["process"]["init_args"]
    backbone["init_args"].pop("vocab_size", None)
    process.pop("mask_token_id", None)
    content = {"init_from": str(out), "model": {"backbone": backbone, "process": process}}
    return json.dumps(content, indent=2) + "\n"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(convert, command, name_positional(arguments, "checkpoint", "out"), flags=("mdlm",))
