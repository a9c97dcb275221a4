"""Load and save whole models in the layouts of released checkpoints."""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llada.backbones.huggingface import HuggingFaceBackbone
from llada.checkpoints.describe import argument_names, describe
from llada.checkpoints.quantised import Quantisation, whole_parameters
from llada.checkpoints.quantised import quantise as quantise_layers
from llada.checkpoints.released.adapter import merge_adapter
from llada.checkpoints.released.arithmetic import without_fields
from llada.checkpoints.released.families import LAYOUTS, layout_of
from llada.checkpoints.released.fields import Config, MaskMissing
from llada.checkpoints.released.folder import write_folder
from llada.checkpoints.released.layout import Described, Layout
from llada.checkpoints.released.mask import find_mask
from llada.checkpoints.released.materialise import build_on_meta, check_fit, count_tensors, fill, settle_head
from llada.checkpoints.released.notice import warn
from llada.checkpoints.released.shards import Stored, read_tensors, stored_tensors, write_tensors
from llada.checkpoints.released.source import find_folder
from llada.checkpoints.released.wrapped import refuse_layout, write_wrapped
from llada.files.json_object import read_object
from llada.files.naming import naming
from llada.process import Process


class Pretrained(NamedTuple):
    """What a released checkpoint holds.

    Attributes:
        backbone: the network.
        process: mask token, schedule and conditioning.
        config: content of ``config.json``.
    """

    backbone: nn.Module
    process: Process
    config: Config


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def read_pretrained(
    folder_or_hub_id: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    mask_token_id: int | str | None = None,
    ignore_fields: Collection[str] = (),
    adapter: str | Path | None = None,
    quantise: Quantisation | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
    **backbone_options: Any,
) -> Pretrained:
    """Load a released checkpoint.

    Served: the families of `llada.checkpoints.released.families.LAYOUTS`. A field of ``config.json`` that isn't
    understood is refused if its name tells of arithmetic, else left aside with a warning. A head that is stored beside
    tied embeddings is the embedding's matrix if it is equal to it, and else a head of its own, with a warning.

    Args:
        folder_or_hub_id: a folder with ``config.json`` and safetensors, or a name on the Hugging Face hub (extra
            ``hf``).
        dtype: to which the weights are converted; None to keep the stored one.
        device: on which the weights are placed.
        revision: branch, tag or commit of the repository on the hub; None for its main branch.
        mask_token_id: the mask, where the configuration has none or another is wanted: an id, or a token of the
            tokenizer beside the weights. None: what the configuration says, or else that tokenizer, by its
            ``mask_token`` or a usual spelling. The first id behind the vocabulary gives the embedding a further row.
        ignore_fields: fields of the configuration to go on without, as if they weren't there.
        adapter: folder or hub name of a PEFT adapter that is added to the weights, see
            `llada.checkpoints.released.adapter`.
        quantise: bits of the matrices in the blocks, "nf4", "fp4" or "int8" (extra ``quantised``), see
            `llada.checkpoints.quantised`; None for whole ones.
        layouts: families that are tried; the first one that knows the configuration is taken. A family of one's own
            is added by ``[MyLayout(), *LAYOUTS]``.
        backbone_options: constructor arguments of the backbone that replace those of the configuration, such as
            ``activation_checkpointing=True``, or ``causal=True, shift=False`` for an autoregressive checkpoint's own
            logits.

    Returns:
        The network in evaluation mode, the process, and the configuration as it was stored, without what was ignored.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no safetensors.
        ValueError: if the configuration can't be served, or a tensor is unknown, missing, of another shape or there
            twice; the message names it. Nothing is loaded in part, and no remote code or pickle is ever run.
    """
    found = look_into(find_folder(folder_or_hub_id, revision), mask_token_id, ignore_fields, layouts, backbone_options)
    if quantise is not None:
        quantise_layers(found.backbone, quantise)
    found.fill(found.backbone, dtype, torch.device(device))
    if adapter is not None:
        merge_adapter(found.backbone, find_folder(adapter), found.layout)
    return Pretrained(found.backbone.eval(), found.process, found.config)


class Found(NamedTuple):
    """A released checkpoint whose files have been seen to fit together, before a weight is read.

    Attributes:
        backbone: the network, without storage.
        process: mask token, schedule and conditioning.
        config: content of ``config.json``.
        layout: its family.
        stored: tensors by their names in the files.
        growing: our names of the parameters that get a row for the mask token.
    """

    backbone: nn.Module
    process: Process
    config: Config
    layout: Layout
    stored: dict[str, Stored]
    growing: set[str]

    def fill(self, backbone: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
        """Read the weights into this network, or another of the same parameters; see `materialise.fill`."""
        fill(backbone, self.layout, read_tensors(self.stored), dtype, device, self.growing)


def look_into(
    folder: Path,
    mask_token_id: int | str | None = None,
    ignore_fields: Collection[str] = (),
    layouts: Sequence[Layout] = LAYOUTS,
    backbone_options: Mapping[str, Any] | None = None,
) -> Found:
    """What a folder holds, by its configuration and the headers of its files.

    Args:
        folder: with ``config.json`` and safetensors.
        mask_token_id: as in `read_pretrained`, as all that follow.
        ignore_fields: fields of the configuration to go on without.
        layouts: families that are tried.
        backbone_options: arguments that replace the configuration's.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: as in `read_pretrained`.
    """
    config = without_fields(read_object(folder / "config.json"), tuple(ignore_fields))
    stored = stored_tensors(folder)
    with naming(folder / "config.json"):
        layout = layout_of(config, layouts)
        described = _describe(layout, config, folder, mask_token_id)
        options, stored = settle_head(described, layout, stored, backbone_options or {})
        backbone = build_on_meta(described, options, count_tensors(stored))
        growing = check_fit(backbone, layout, {name: tensor.shape for name, tensor in stored.items()}, described.grows)
    if growing:
        warn(
            f"the mask token {described.process.mask_token_id} has no row in the files: it gets one behind the others, "
            f"with their mean ({', '.join(sorted(growing))})"
        )
    return Found(backbone, described.process, config, layout, stored, growing)


def _describe(layout: Layout, config: Config, folder: Path, mask: int | str | None) -> Described:
    """What a configuration says, with the mask token from the tokenizer's files where it says none."""
    if isinstance(mask, str):
        mask = find_mask(folder, mask)
    try:
        return layout.read(config, mask)
    except MaskMissing:
        found = find_mask(folder)
        if found is None:
            raise
    return layout.read(config, found)


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


def layout_for(model: Pretrained, wanted: str | Layout | None) -> tuple[Layout, Config]:
    """The layout to save in, and the configuration with what the original one knew beside.

    Args:
        model: network, process, and the configuration it was loaded with; {} for none.
        wanted: a layout or its name; None as in `write_pretrained`.

    Raises:
        ValueError: if no layout, or not the one asked for, can say what the model is.
    """
    reasons = []
    for layout in _candidates(model.config, wanted):
        kept = model.config if model.config and layout.matches(model.config) else {}
        try:
            _check_process(layout, model.process)
            written = layout.write(model.backbone, model.process)
            config = {**kept, **{key: value for key, value in written.items() if _changed(kept, key, value)}}
            _check_complete(layout, config, model)
        except ValueError as error:
            reasons.append(str(error))
            continue
        return layout, config
    raise ValueError("; ".join(reasons))


def _candidates(original: Config, wanted: str | Layout | None) -> list[Layout]:
    if isinstance(wanted, Layout):
        return [wanted]
    if wanted is None and original:
        return [layout_of(original)]
    found = [layout for layout in LAYOUTS if wanted in (None, layout.name)]
    if not found:
        raise ValueError(
            f"layout {wanted!r} is unknown; choose one of {', '.join(layout.name for layout in LAYOUTS)}, or give a "
            "layout of your own"
        )
    return found


def _check_process(layout: Layout, process: Process) -> None:
    if process.inserts or not isinstance(process, layout.processes):
        kinds = " or ".join(kind.__name__ for kind in layout.processes)
        raise ValueError(
            f"the {layout.name} layout holds models of {kinds}, not of {process}; choose another layout, or keep the "
            "Lightning checkpoint"
        )


def _check_complete(layout: Layout, config: Config, model: Pretrained) -> None:
    """Refuse a configuration that another model would be loaded from than the one that is saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that were left aside when the model was loaded
        described = layout.read(config, None)
    loaded = build_on_meta(described, {})
    names = [name for name in argument_names(described.backbone) if name not in layout.without_effect]
    compared = [(name, getattr(model.backbone, name), getattr(loaded, name)) for name in names]
    if type(described.process) is not type(model.process):
        compared.append(("process", model.process, described.process))
    for name in ("mask_token_id", "time_conditioned", "num_tokens", "posterior", "scatter", "gamma", "tells_time"):
        compared.append((name, getattr(model.process, name, None), getattr(described.process, name, None)))
    for name, ours, theirs in compared:
        if describe(ours) != describe(theirs):
            raise ValueError(
                f"the {layout.name} layout can't say {name}={ours!r}, only {theirs!r}; "
                "keep the Lightning checkpoint, or choose another layout"
            )


def _changed(kept: Config, key: str, value: Any) -> bool:
    """Whether a field must be written: an original field that says the same stays as it was spelt."""
    return key not in kept or (kept[key] != value and not (kept[key] is None and value in (None, False, 0)))
