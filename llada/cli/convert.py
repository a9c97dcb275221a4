"""``llada convert``: between the layouts of released checkpoints, and to and from the Trainer's files.

    llada convert run/last.ckpt my-model --dtype bfloat16
    llada convert LLaDA-8B-Base start.ckpt
    llada fit --config data.yaml --config start.json --config start.tokenizer.json
    llada convert run/last.ckpt my-adapter --adapter

A target that ends in ``.ckpt`` is a file that `DiffusionLM.load_from_checkpoint` reads. Beside it come a configuration
that begins training with it, the tokenizer's folder, and a configuration that names that. Any other target is a folder
with ``config.json``, ``model.safetensors``, the tokenizer's files and all else that lay in the source's folder: remote
code, settings of generation, notes. With ``--adapter`` alone, it gets the low-rank additions of a run with LoRA, in
PEFT's format; ``--adapter FOLDER`` adds such a folder to the weights that are read.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.checkpoints.describe import describe, public_path
from llada.checkpoints.released.carried import Carried, carried, without_links_out
from llada.checkpoints.released.folder import TOKENIZER_FILES
from llada.checkpoints.released.new_mask import with_new_mask
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.source import find_folder
from llada.cli.kinds import Checkpoint, InputFolder, NewPlace
from llada.cli.options import run
from llada.data import Tokenizer
from llada.data.tokenizers.special_tokens import read_files, template_source
from llada.files.atomic import replacing, write_bytes
from llada.files.json_object import read_object
from llada.files.places import is_released
from llada.module import DiffusionLM
from llada.text.loading import load_parts
from llada.text.released import tokenizer_of, torch_dtype
from llada.training.adapters import write_run_adapter


def convert(
    checkpoint: Checkpoint,
    out: NewPlace,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    layout: str | None = None,
    tokenizer: InputFolder | None = None,
    files_from: InputFolder | None = None,
    mdlm: bool = False,
    adapter_only: bool = False,
    add_mask: str | None = None,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> None:
    """Write a checkpoint in another layout.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        out: folder to be made, or a file ending in .ckpt.
        dtype: to which the weights are converted, such as bfloat16; default: as they are stored.
        max_shard_size: largest file of weights in a folder, such as 500MB or 5GB.
        layout: names and shapes of which family, such as llada; default: the one that the model's parts call for.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint, if there is one.
        files_from: folder whose other files go along, such as remote code; default: the checkpoint's own folder.
        mdlm: the checkpoint is a training file of the official MDLM code; its averaged weights are taken.
        add_mask: name of a mask token, such as <|mask|>, that a checkpoint without one gets in vocabulary, embedding
            and tokenizer.
        adapter_only: write the low-rank additions of a run with LoRA alone, as PEFT does; --adapter alone means this.
        loading: what to add to a released checkpoint's own word.
    """
    if adapter_only:
        write_run_adapter(checkpoint, out, layout)
        print(f"adapter written to {out}; next: llada chat BASE --adapter {out}")
        return
    with _source(checkpoint, loading, add_mask) as (readable, kept, loading):
        model, words = _read(readable, tokenizer, dtype, mdlm, loading)
        origin = Path(readable)
        if files_from is not None:
            origin = find_folder(files_from)
            kept = carried(origin)
            kept = kept if words is None else kept.without_tokenizer()
        if out.endswith(".ckpt"):
            _write_trainer_file(model, words, Path(out))
        else:
            files = kept if tokenizer is None else kept.without_tokenizer()
            _write_folder(model, words, Path(out), max_shard_size, layout, files)
            _settle_remote_code(Path(out), origin)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{total:,} parameters written to {out}")
    for line in _remarks(out, words, kept):
        print(line)


@contextmanager
def _source(checkpoint: str, loading: LoadOptions, add_mask: str | None) -> Iterator[tuple[str, Carried, LoadOptions]]:
    """What to read instead of a checkpoint's name, the files beside its weights, and how to read it."""
    if not is_released(checkpoint):
        if add_mask is not None:
            raise ValueError(f"--add_mask is for released folders; {checkpoint} says itself which token is the mask")
        yield checkpoint, Carried({}, [], []), loading
        return
    folder = find_folder(checkpoint, loading.revision)
    with without_links_out(folder) as view:
        if add_mask is None:
            yield str(view), carried(folder), loading
            return
        if loading.mask is not None:
            raise ValueError(f"give --mask for a token that is there, or --add_mask for a new one; got {loading.mask}")
        with with_new_mask(view, add_mask) as (masked, mask):
            yield str(masked), carried(folder), replace(loading, mask=mask)


def _read(
    checkpoint: str, tokenizer: str | None, dtype: str | None, mdlm: bool, loading: LoadOptions
) -> tuple[DiffusionLM, Tokenizer | None]:
    if not mdlm:
        return load_parts(checkpoint, tokenizer, "cpu", dtype, loading)
    if not checkpoint.endswith(".ckpt"):
        raise ValueError(f"--mdlm reads a .ckpt file of the official code; got {checkpoint}")
    loading.check_describes_itself(checkpoint)
    model = DiffusionLM.from_pretrained(checkpoint, dtype=torch_dtype(dtype))
    return model, None if tokenizer is None else tokenizer_of(model, checkpoint, tokenizer)


def _write_folder(
    model: DiffusionLM, tokenizer: Tokenizer | None, out: Path, max_shard_size: str, layout: str | None, kept: Carried
) -> None:
    options = {"layout": layout, "tokenizer": tokenizer, "max_shard_size": max_shard_size, "beside": kept.files}
    model.save_pretrained(out, **options)
    if tokenizer is None:
        return
    # Other programs read these from the model's configuration; a model of ours leaves them to the tokenizer.
    config = read_object(out / "config.json")
    for name in ("eos_token_id", "pad_token_id"):
        if config.get(name) in (None, -1):
            config[name] = getattr(tokenizer, name)
    write_bytes(out / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _settle_remote_code(out: Path, origin: Path) -> None:
    """Name the remote code as the folder did that it came from, and no code that isn't there."""
    config = read_object(out / "config.json")
    written = config.pop("auto_map", None)
    named = read_object(origin / "config.json").get("auto_map", written) if origin.is_dir() else written
    if isinstance(named, dict):
        files = [str(path).partition(".")[0] for path in named.values() if "--" not in str(path)]
        if all((out / f"{name}.py").is_file() for name in files):
            config["auto_map"] = named
    if config.get("auto_map") != written:
        write_bytes(out / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _remarks(out: str, words: Tokenizer | None, kept: Carried) -> Iterator[str]:
    """What the user should know, the next command at the end."""
    if kept.outside:
        yield f"left out, as links that lead out of the folder: {', '.join(kept.outside)}"
    other = [name for name in kept.weights if not name.endswith((".safetensors", ".index.json"))]
    if other:
        yield f"left out, as weights or pickles: {', '.join(other)}"
    if not out.endswith(".ckpt"):
        if words is None:
            yield f"next: llada sample {out} --tokenizer FOLDER"
        else:  # a base model has learnt no turns
            yield f"next: llada {'chat' if _chats(Path(out)) else 'sample'} {out}"
        return
    if kept.files:
        others = [name for name in kept.files if name.partition("/")[0] not in TOKENIZER_FILES]
        yield f"a .ckpt has no place for these, which stay where they are: {', '.join(others)}" if others else ""
    stem = Path(out).with_suffix("")
    named = "" if words is None else f" --config {stem}.tokenizer.json"
    chats = words is not None and _chats(Path(f"{stem}.tokenizer"))
    template = f" --data.template.folder {stem}.tokenizer" if chats and str(stem) != "start" else ""
    fit = f"llada fit --config finetune.yaml --config {stem}.json{named}{template}"
    yield f"next: llada config {'finetune_chat' if chats else 'finetune'} > finetune.yaml && {fit}"


def _chats(folder: Path) -> bool:
    """Whether the files of a tokenizer bring a chat template."""
    return template_source(read_files(folder)) is not None


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
    if tokenizer is None:
        return
    folder = out.with_suffix(".tokenizer")
    tokenizer.save(folder)
    part = {"class_path": public_path(type(tokenizer)), "init_args": {"path": str(folder)}}
    named = json.dumps({"data": {"init_args": {"tokenizer": part}}}, indent=2) + "\n"
    write_bytes(out.with_suffix(".tokenizer.json"), named.encode())


def _configuration(model: DiffusionLM, out: Path) -> str:
    """Options of ``llada fit`` with the parts that belong to the weights.

    The size of the vocabulary and the mask aren't among it: they come from the data, by way of its tokenizer. Nor is
    what belongs to the machine.
    """
    parts = describe(model)["init_args"]
    backbone, process = parts["backbone"], parts["process"]["init_args"]
    for name in ("vocab_size", "attention", "activation_checkpointing"):
        backbone["init_args"].pop(name, None)
    process.pop("mask_token_id", None)
    content = {"init_from": str(out), "model": {"backbone": backbone, "process": process}}
    return json.dumps(content, indent=2) + "\n"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(convert, command, arguments)
