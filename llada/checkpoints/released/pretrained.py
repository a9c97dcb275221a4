"""Load whole models from the layouts of released checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llada.checkpoints.quantised import Quantisation
from llada.checkpoints.quantised import quantise as quantise_layers
from llada.checkpoints.released.adapter import merge_adapter
from llada.checkpoints.released.arithmetic import without_fields
from llada.checkpoints.released.families import LAYOUTS, layout_of
from llada.checkpoints.released.fields import Config, MaskMissing
from llada.checkpoints.released.layout import Described, Layout
from llada.checkpoints.released.mask import find_mask
from llada.checkpoints.released.materialise import build_on_meta, check_fit, count_tensors, fill, settle_head
from llada.checkpoints.released.notice import warn
from llada.checkpoints.released.parts import fill_parts
from llada.checkpoints.released.shards import Stored, read_tensors, stored_tensors
from llada.checkpoints.released.source import find_folder
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
        """Read the weights into this network, or another of the same parameters; see `materialise.fill`.

        One that is split over ranks keeps the dtypes of its parameters; each rank reads its own part.
        """
        if any(isinstance(parameter, DTensor) for parameter in backbone.parameters()):
            fill_parts(backbone, self.layout, self.stored, device, self.growing)
            return
        fill(backbone, self.layout, read_tensors(self.stored), dtype, device, self.growing)
        _tell_of_dtypes(backbone)


def _tell_of_dtypes(backbone: nn.Module) -> None:
    """Warn of a network that can be kept as it is stored, but not run: products need one dtype, but for routers'."""
    found: dict[torch.dtype, list[str]] = {}
    for name, parameter in backbone.named_parameters():
        if parameter.is_floating_point() and ".router." not in name:
            found.setdefault(parameter.dtype, []).append(name)
    if len(found) > 1:
        most = max(found, key=lambda dtype: len(found[dtype]))
        others = [f"{names[0]} in {dtype}" for dtype, names in found.items() if dtype != most]
        warn(
            f"the files hold tensors in {most}, but {', '.join(others)}; to run the model, have one dtype for "
            f"all: dtype={most} (--dtype {str(most).removeprefix('torch.')})"
        )


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
