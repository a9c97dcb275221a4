"""A network of transformers, saved as its own class saves it."""

import json
from pathlib import Path
from typing import Any

import torch

from llada.backbones.huggingface import HuggingFaceBackbone
from llada.checkpoints.released.layout import Layout
from llada.files.json_object import read_object
from llada.process import MaskingProcess, Process


def refuse_layout(backbone: HuggingFaceBackbone, process: Process, layout: str | Layout | None) -> None:
    """A wrapped network has names of its own.

    Raises:
        ValueError: if a layout is asked for, or the process has more to say than its mask token.
    """
    if process.inserts or not isinstance(process, MaskingProcess):
        raise ValueError(f"released layouts hold masked diffusion models only; {process} needs a checkpoint")
    if layout is not None:
        name = type(backbone.network).__name__
        raise ValueError(f"{name} is saved by its own class, under its own names; leave out the layout {layout!r}")


def write_wrapped(
    backbone: HuggingFaceBackbone, process: Process, dtype: torch.dtype | None, shard_bytes: int, folder: Path
) -> None:
    """Write ``config.json`` and the weights, which transformers' ``from_pretrained`` reads again.

    Args:
        backbone: with the network.
        process: whose mask token goes into the configuration, since transformers has no field for one.
        dtype: in which the weights are stored; None for the network's own.
        shard_bytes: largest file of weights.
        folder: that is there, and is empty.
    """
    network: Any = backbone.network
    state = {name: value if dtype is None else value.to(dtype) for name, value in network.state_dict().items()}
    network.save_pretrained(folder, state_dict=state, max_shard_size=shard_bytes)
    config = read_object(folder / "config.json")
    config["mask_token_id"] = process.mask_token_id
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
