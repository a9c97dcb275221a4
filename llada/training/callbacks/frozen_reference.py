"""The model as it was when training began, for objectives that compare with it."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from llada.checkpoints.checkpoint import read_checkpoint
from llada.objectives import FrozenCopy


class FrozenReference(Callback):
    """Makes the `llada.objectives.FrozenCopy` that is the ``reference`` of an objective.

    It is the model as it is when training begins: the weights of ``--init_from`` or `from_pretrained`. A resumed run
    must begin with the same ones, which is checked.

    Args:
        checkpoint: file of a model with the same backbone that is to be the reference instead; None for the model's own
            weights.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        self.checkpoint = checkpoint
        self._copy: nn.Module | None = None
        self._stored: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights, before those of a run that is resumed are put in their place.

        Raises:
            ValueError: if the objective has no reference, or the copy can't be made.
        """
        reference = getattr(pl_module.objective, "reference", None)
        if reference is None:
            raise ValueError(f"{pl_module.objective} compares with no reference; leave {type(self).__name__} out")
        if not isinstance(reference, FrozenCopy):
            return
        if stage != "fit" and self.checkpoint is None:
            return  # what training began with isn't known here
        self._copy = reference.hold(pl_module.backbone)  # type: ignore[arg-type]
        if self.checkpoint is not None:
            weights, prefix = read_checkpoint(self.checkpoint)["state_dict"], "backbone."
            own = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
            self._copy.load_state_dict(own)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the copy where the model is.

        Raises:
            ValueError: if a resumed run began with other weights.
        """
        if self._copy is None:
            return
        found = self._stored.get("reference")
        if found is not None and found != _fingerprint(self._copy):
            raise ValueError(
                "the run that is resumed had another reference; begin with the same weights as the first time "
                f"(--init_from, from_pretrained, or {type(self).__name__}(checkpoint=...))"
            )
        self._stored = {"reference": _fingerprint(self._copy)}
        like = next(pl_module.parameters())
        self._copy.to(device=like.device, dtype=like.dtype)

    def state_dict(self) -> dict[str, Any]:
        """What tells the reference from others."""
        return dict(self._stored)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the reference of the run that is resumed."""
        self._stored = dict(state_dict)


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
