"""Begin a run with weights that are there already: of another run, or of a released checkpoint.

A released network must compute what the run's backbone computes. Where its configuration says something else, the run
is refused with both values, unless the caller replaces the configuration's word by the run's own.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from llada.checkpoints.checkpoint import check_tokenizer, read_checkpoint
from llada.checkpoints.describe import argument_names, describe
from llada.checkpoints.released.fields import MaskMissing
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.pretrained import Pretrained, read_pretrained
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
        if _is_released(self.checkpoint):
            self._begin_with_released(pl_module)
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

    def _begin_with_released(self, model: Any) -> None:
        mask, dtype = model.process.mask_token_id, next(model.backbone.parameters()).dtype
        try:
            loaded = read_pretrained(self.checkpoint, dtype=dtype, **self.loading.released())
        except MaskMissing:  # the run has to know
            loaded = read_pretrained(self.checkpoint, dtype=dtype, **replace(self.loading, mask=mask).released())
        self._check(loaded, mask, model.backbone)
        load_whole(model.backbone, loaded.backbone.state_dict())

    def _check(self, loaded: Pretrained, mask: int, backbone: nn.Module) -> None:
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


def _spelt(value: Any) -> str:
    """A value as the command line takes it."""
    return {True: "true", False: "false", None: "null"}[value] if value in (True, False, None) else str(value)


def _is_released(checkpoint: str) -> bool:
    path = Path(checkpoint)
    if path.exists():
        return (path / "config.json").is_file()
    return path.suffix != ".ckpt" and len(path.parts) == 2 and not path.is_absolute()
