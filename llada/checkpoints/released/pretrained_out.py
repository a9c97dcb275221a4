"""Save whole models in the layouts of released checkpoints."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llada.backbones.huggingface import HuggingFaceBackbone
from llada.checkpoints.quantised import whole_parameters
from llada.checkpoints.released.folder import write_folder
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.layout_for import layout_for
from llada.checkpoints.released.pretrained import Pretrained
from llada.checkpoints.released.shards import write_tensors
from llada.checkpoints.released.wrapped import refuse_layout, write_wrapped

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def write_pretrained(
    model: Pretrained,
    folder: str | Path,
    *,
    layout: str | Layout | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    beside: Mapping[str, Path] | None = None,
) -> None:
    """Save a model in the layout of a released checkpoint: ``config.json``, weights, tokenizer files.

    A network that `HuggingFaceBackbone` wraps is saved by its own ``save_pretrained``.

    Everything is written beside the folder first and put in its place at the end; what was there before stays until
    then. What the released configurations don't say is left out: the schedule, and whether the loss's softmax leaves
    the mask out. On loading, these are the family's own.

    Args:
        model: network, process, and the configuration it was loaded with; {} for none.
        folder: folder to be written. In an existing one, ``config.json`` and weights are replaced, the tokenizer's
            files if ``tokenizer`` is given, and nothing else.
        layout: name of one of `llada.checkpoints.released.families.LAYOUTS`, such as "llada" or "dream", or a layout of
            one's own; None for the one the model came from, or the first that can say all of it.
        tokenizer: saved beside the weights, if given; the configuration gets its special tokens where it has none.
        dtype: in which the weights are stored; None for the model's own.
        max_shard_size: bytes per file, or a text such as "500MB".
        beside: further files by their names in the folder, such as README.md; what is written anyway comes first.

    Raises:
        ValueError: if the size isn't one, or no layout, or not the one asked for, can say what the model is.
    """
    shard_bytes = parse_size(max_shard_size)
    if isinstance(model.backbone, HuggingFaceBackbone):
        refuse_layout(model.backbone, model.process, layout)
        write: Callable[[Path], None] = partial(write_wrapped, model.backbone, model.process, dtype, shard_bytes)
    else:
        write = _writer(model, layout, tokenizer, dtype, shard_bytes)

    def build(work: Path) -> None:
        write(work)
        if tokenizer is not None:
            tokenizer.save(work)
        for name, path in (beside or {}).items():
            if not (work / name).exists():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, work / name)

    write_folder(Path(folder), build, tokenizer=tokenizer is not None)


def _writer(
    model: Pretrained, layout: str | Layout | None, tokenizer: Any, dtype: torch.dtype | None, shard_bytes: int
) -> Callable[[Path], None]:
    """What writes configuration and weights in a layout, which is found first."""
    chosen, config = layout_for(model, layout)
    if "torch_dtype" in config:  # LLaDA's own have none
        stored = dtype or next(model.backbone.parameters()).dtype
        config["torch_dtype"] = str(stored).removeprefix("torch.")
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if tokenizer is not None and config.get(role) in (None, -1) and getattr(tokenizer, role, None) is not None:
            config[role] = getattr(tokenizer, role)

    def write(work: Path) -> None:
        (work / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(_named(model.backbone, chosen, dtype), work, shard_bytes)

    return write


def _named(backbone: nn.Module, layout: Layout, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    parameters = whole_parameters(backbone)
    for name in parameters:
        stored = layout.theirs(name)
        names = layout.holds(stored, backbone)
        if name == names[0]:  # the others that are stored with it go along
            found = [parameters[part].detach() for part in names]
            tensor = found[0] if len(found) == 1 else torch.cat(found)
            yield stored, tensor.to(dtype or tensor.dtype)
    yield from layout.constants(backbone)


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 5000000 or "5MB".

    Raises:
        ValueError: if it isn't one, or isn't above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(KB|MB|GB)?\s*", str(size), re.IGNORECASE)
    count = 0 if found is None else int(float(found[1]) * UNITS.get((found[2] or "").upper(), 1))
    if count < 1:
        raise ValueError(f"a size must be a number of bytes or a text such as '500MB' or '5GB'; got {size!r}")
    return count
