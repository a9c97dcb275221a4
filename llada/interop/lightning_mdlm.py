"""MDLM's own Lightning checkpoints: raw weights, and the averaged ones that its authors evaluate and sample with.

Reference: the released ``diffusion.py`` and ``models/ema.py`` of arXiv 2406.07524: ``ema.shadow_params`` is a list in
the order of the parameters.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llada.interop.mdlm import MDLMLayout
from llada.interop.pretrained import Pretrained, build_on_meta, fill

BUFFER = "rotary_emb.inv_freq"


def read_mdlm_checkpoint(
    path: str | Path,
    *,
    averaged: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Pretrained:
    """Load a training checkpoint of the official MDLM code.

    Args:
        path: the ``.ckpt`` file.
        averaged: whether to take the exponential moving average of the weights.
        dtype: of the weights; None for the stored one.
        device: of the weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds pickled objects (which are refused), or isn't of this kind.
    """
    checkpoint = _read(Path(path))
    try:
        settings = checkpoint["hyper_parameters"]["config"]
        model, weights = settings["model"], checkpoint["state_dict"]
        config = {
            "model_type": "mdlm",
            "cond_dim": model["cond_dim"],
            "dropout": model["dropout"],
            "hidden_dim": model["hidden_size"],
            "model_length": model["length"],
            "n_blocks": model["n_blocks"],
            "n_heads": model["n_heads"],
            "time_conditioning": settings["time_conditioning"],
            "vocab_size": len(weights["backbone.vocab_embed.embedding"]),
        }
        shadows = checkpoint["ema"]["shadow_params"] if averaged else None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} isn't a training checkpoint of MDLM: it lacks {error}") from error
    if settings.get("parameterization", "subs") != "subs":
        raise ValueError(f"{path} has parameterization={settings['parameterization']!r}, but only 'subs' can be loaded")
    layout = MDLMLayout()
    described = layout.read(config, None)
    backbone = build_on_meta(described, {})
    fill(backbone, layout, _tensors(weights, shadows, path), dtype, torch.device(device))
    return Pretrained(backbone.eval(), described.process, config)


def _tensors(weights: dict[str, Tensor], shadows: list[Tensor] | None, path: Any) -> Iterator[tuple[str, Tensor]]:
    names = [name for name in weights if name.startswith("backbone.") and not name.endswith(BUFFER)]
    if shadows is None:
        return ((name, weights[name]) for name in names)
    if len(shadows) != len(names):
        raise ValueError(f"{path} averages {len(shadows)} tensors, but the network has {len(names)}")
    return zip(names, shadows, strict=True)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds pickled Python objects, which could run code and are refused; where you "
            "trust it, load it with the official code and save a plain dictionary of its tensors and settings"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} must hold a dictionary; got a {type(checkpoint).__name__}")
    return checkpoint
