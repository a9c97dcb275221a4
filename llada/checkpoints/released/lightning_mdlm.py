"""Lightning checkpoints of MDLM, UDLM and Duo: raw weights, and the averaged ones that their authors sample with.

Reference: the released ``diffusion.py`` and ``models/ema.py`` of arXiv 2406.07524: ``ema.shadow_params`` is a list in
the order of the parameters; ``diffusion.py`` of arXiv 2412.10193; ``trainer_base.py`` of arXiv 2506.10892.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llada.checkpoints.released.dit import PREFIX, WAVELENGTHS
from llada.checkpoints.released.families import layout_of
from llada.checkpoints.released.materialise import build_on_meta, check_fit, fill
from llada.checkpoints.released.pickled import read_inert
from llada.checkpoints.released.pretrained import Pretrained

SERVED: dict[str, tuple[tuple[str, str | bool, tuple[str | bool, ...]], ...]] = {
    "mdlm": (
        ("parameterization", "subs", ("subs",)),
        ("backbone", "dit", ("dit",)),
        ("diffusion", "absorbing_state", ("absorbing_state",)),
    ),
    "udlm": (
        ("parameterization", "d3pm", ("d3pm",)),
        ("backbone", "dit", ("dit",)),
        ("subs_masking", False, (False,)),
    ),
    "DUO": (
        ("name", "", ("duo", "duo_base", "distillation")),
        ("parameterization", "mean", ("mean",)),
        ("backbone", "dit", ("dit",)),
        ("causal_attention", False, (False,)),
        ("subs_masking", False, (False,)),
    ),
}
"""Settings of each family, what they are where they are missing, and what can be loaded."""


def read_mdlm_checkpoint(
    path: str | Path,
    *,
    averaged: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Pretrained:
    """Load a training checkpoint of the official code of MDLM, UDLM or Duo.

    The file also holds the run's settings and tokenizer, pickled. No class of theirs is imported and none of their code
    runs; the settings are read from what was stored.

    Args:
        path: the ``.ckpt`` file.
        averaged: whether to take the exponential moving average of the weights.
        dtype: to which the weights are converted; None to keep the stored one.
        device: on which the weights are placed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, could run code, or isn't of this kind.
    """
    checkpoint = read_inert(Path(path))
    try:
        settings = checkpoint["hyper_parameters"]["config"]
        config = _config(settings, checkpoint["state_dict"])
        weights = _tensors(checkpoint, averaged, path)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} isn't a training checkpoint of MDLM, UDLM or Duo: it lacks {error}") from error
    layout = layout_of(config)
    described = layout.read(config, None)
    backbone = build_on_meta(described, {}, len(checkpoint["state_dict"]))
    check_fit(backbone, layout, {name: tuple(tensor.shape) for name, tensor in weights})
    fill(backbone, layout, iter(weights), dtype, torch.device(device))
    return Pretrained(backbone.eval(), described.process, config)


def _config(settings: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of the Hugging Face form."""
    model, algorithm = settings["model"], settings.get("algo")
    kind, known = ("mdlm", settings) if algorithm is None else ("DUO", algorithm)
    if algorithm is None and settings.get("diffusion") == "uniform":
        kind = "udlm"
    for name, default, served in SERVED[kind]:
        if known.get(name, default) not in served:
            raise ValueError(f"the checkpoint has {name}={known[name]!r}, but only {served[0]!r} can be loaded")
    return {
        "model_type": kind,
        "cond_dim": model["cond_dim"],
        "dropout": model["dropout"],
        "hidden_dim": model["hidden_size"],
        "model_length": model["length"],
        "n_blocks": model["n_blocks"],
        "n_heads": model["n_heads"],
        "time_conditioning": known["time_conditioning"],
        "vocab_size": len(weights[PREFIX + "vocab_embed.embedding"]),
    }


def _tensors(checkpoint: dict[str, Any], averaged: bool, path: Any) -> list[tuple[str, Tensor]]:
    weights = checkpoint["state_dict"]
    names = [name for name in weights if name.startswith(PREFIX) and name != PREFIX + WAVELENGTHS]
    tensors = [weights[name] for name in names]
    if averaged:
        tensors = list(checkpoint["ema"]["shadow_params"])
        if len(tensors) != len(names):
            raise ValueError(f"{path} averages {len(tensors)} tensors, but the network has {len(names)}")
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ValueError(f"{path} holds something else than tensors among the weights")
    return list(zip(names, tensors, strict=True))
