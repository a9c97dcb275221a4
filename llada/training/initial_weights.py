"""Begin a run with weights that are there already: of another run, or of a released checkpoint.

The files of a released checkpoint are read into the run's own network, one tensor at a time: there is never a second
one. Where the network is to be split over ranks, each rank reads its own part once it is. A released network must
compute what the run's backbone computes. Where its configuration says something else, the run is refused with both
values, unless the caller replaces the configuration's word by the run's own.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from llada.checkpoints.checkpoint import check_tokenizer, read_checkpoint
from llada.checkpoints.describe import argument_names, describe
from llada.checkpoints.quantised import quantise
from llada.checkpoints.released import merge_adapter
from llada.checkpoints.released.fields import MaskMissing
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.pretrained import Found, look_into
from llada.checkpoints.released.source import find_folder
from llada.training.parallel import WHOLE_ONLY
from llada.training.weights import load_whole

FREE = {"activation_checkpointing", "attention", "max_length", "vocab_size"}
"""Arguments that may differ: they don't change what is computed, or the weights tell of them."""


class InitialWeights(Callback):
    """Begin with the weights of a checkpoint, and with nothing else of it, as fine-tuning does.

    Args:
        checkpoint: file of a model with the same backbone and tokenizer, or a released checkpoint's folder or hub name.
        loading: what to add to a released checkpoint's own word.
    """

    def __init__(self, checkpoint: str, loading: LoadOptions = LoadOptions()) -> None:  # noqa: B008 - frozen
        self.checkpoint, self.loading = checkpoint, loading

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load them when the tokenizer is there and before any other callback copies the weights.

        Raises:
            ValueError: if the tokenizer or the mask is another one, or a released network computes something else.
            RuntimeError: if the backbone is another one.
        """
        if self.loading.quantise is not None and getattr(pl_module, "device_mesh", None) is not None:
            raise ValueError(f"quantise={self.loading.quantise}: {WHOLE_ONLY}")
        if _is_released(self.checkpoint):
            self._begin_with_released(pl_module, trainer)
            return
        self.loading.check_describes_itself(self.checkpoint)
        if self.loading.adapter is not None:
            raise ValueError(
                f"--adapter is for released folders; add it to {self.checkpoint} first: llada convert "
                f"{self.checkpoint} merged.ckpt --adapter {self.loading.adapter}"
            )
        stored = read_checkpoint(self.checkpoint)
        tokenizer = getattr(trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]
        if tokenizer is not None:
            check_tokenizer(stored, tokenizer, self.checkpoint)
        load_whole(pl_module, stored["state_dict"])
        if self.loading.quantise is not None:
            quantise(pl_module.backbone, self.loading.quantise)  # type: ignore[arg-type]

    def _begin_with_released(self, model: Any, trainer: Any) -> None:
        """Fill the run's own network, tensor by tensor, once everything has been compared."""
        loading, mask, backbone = self.loading, model.process.mask_token_id, model.backbone
        if loading.quantise is not None and loading.adapter is not None:
            raise ValueError(
                "an adapter can't be added to quantised weights that are trained further; go on from it: "
                f"--trainer.callbacks+=LoRA --trainer.callbacks.adapter {loading.adapter}"
            )
        folder = find_folder(self.checkpoint, loading.revision)
        try:
            found = look_into(folder, loading.mask, loading.ignore_fields, backbone_options=loading.backbone)
        except MaskMissing:  # the run has to know
            found = look_into(folder, mask, loading.ignore_fields, backbone_options=loading.backbone)
        self._check(found, mask, backbone)
        dtype, device = next(backbone.parameters()).dtype, torch.device("cpu")
        is_empty = all(parameter.is_meta for parameter in backbone.parameters())
        if is_empty and model.device_mesh is not None:
            adapter = None if loading.adapter is None else find_folder(loading.adapter)
            model.initial_weights = partial(_fill_split, found, adapter)
            return
        if loading.quantise is not None and is_empty:
            quantise(backbone, loading.quantise)
            device = trainer.strategy.root_device
        found.fill(backbone, dtype, device)
        if loading.quantise is not None and not is_empty:
            quantise(backbone, loading.quantise)
        if loading.adapter is not None:
            merge_adapter(backbone, find_folder(loading.adapter), found.layout)

    def _check(self, loaded: Found, mask: int, backbone: nn.Module) -> None:
        if loaded.process.mask_token_id != mask:
            raise ValueError(
                f"the mask token of {self.checkpoint} is {loaded.process.mask_token_id}, that of this run {mask}; give "
                f"the data the checkpoint's own tokenizer, or --mask {mask}"
            )
        if not isinstance(backbone, type(loaded.backbone)):
            raise ValueError(
                f"{self.checkpoint} holds a {type(loaded.backbone).__name__}, but model.backbone is a "
                f"{type(backbone).__name__}"
            )
        for name in argument_names(type(loaded.backbone)):
            theirs, ours = getattr(loaded.backbone, name), getattr(backbone, name)
            if name not in FREE and describe(theirs) != describe(ours):
                raise ValueError(
                    f"{self.checkpoint} has {name}={theirs!r}, but model.backbone has {ours!r}; set "
                    f"--model.backbone.init_args.{name}, or go on with the run's own: --backbone {name}={_spelt(ours)}"
                )
        theirs, ours = (dict(network.named_parameters()) for network in (loaded.backbone, backbone))
        for name in [*theirs, *ours]:
            shapes = [tuple(found[name].shape) if name in found else None for found in (theirs, ours)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{self.checkpoint} has {name} of shape {shapes[0]}, but model.backbone {shapes[1]}; give the data "
                    "the checkpoint's own tokenizer, and model.backbone its sizes"
                )


def _fill_split(found: Found, adapter: Path | None, backbone: nn.Module, device: torch.device) -> None:
    found.fill(backbone, None, device)
    if adapter is not None:
        merge_adapter(backbone, adapter, found.layout)


def _spelt(value: Any) -> str:
    """A value as the command line takes it."""
    return {True: "true", False: "false", None: "null"}[value] if value in (True, False, None) else str(value)


def _is_released(checkpoint: str) -> bool:
    path = Path(checkpoint)
    if path.exists():
        return (path / "config.json").is_file()
    return path.suffix != ".ckpt" and len(path.parts) == 2 and not path.is_absolute()
