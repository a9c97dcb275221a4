"""A schedule of block lengths: from next-token prediction to block diffusion, and back from whole rows to blocks.

    L_B = 1, 4, 32, ... L, ... 32        warm-up, stable phase, decay

With ``block_length=1`` and ``shift`` a two-copy pass is the autoregressive model, so a converted model begins with what
it knows.

Reference: Bie et al., "LLaDA2.0: Scaling Up Diffusion Language Models to 100B", arXiv 2512.15745, section 4.1.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override


class BlockLengths(Callback):
    """Sets the backbone's ``block_length``, which stays its only owner, by the number of optimiser steps taken.

    Nothing is remembered: a run that goes on from a checkpoint in the middle of a stage is in the middle of that stage.
    Checkpoints hold the block length of their step. Where a block holds the whole row, the clean copy is left out.

    Args:
        stages: from optimiser step to the block length that holds from it on; step 0 must be among them. None stands
            for the whole row, the backbone's ``max_length``.

    Raises:
        ValueError: if there is no step 0, or a step is negative or a block length less than 1.

    Examples:
        >>> from llada.training.callbacks import BlockLengths
        >>> callback = BlockLengths({0: 1, 1000: 4, 2000: None})
        >>> [callback.at(step) for step in (0, 999, 1000, 5000)]  # at last the whole row
        [1, 1, 4, None]
    """

    schedules: ClassVar[tuple[str, ...]] = ("backbone.block_length",)
    """What it sets in mid-run, so that a checkpoint may differ in it."""

    def __init__(self, stages: Mapping[int, int | None]) -> None:
        if 0 not in stages or min(stages) < 0:
            raise ValueError(f"stages must begin at step 0, such as {{0: 1, 1000: 4}}; got the steps {sorted(stages)}")
        short = [length for length in stages.values() if length is not None and length < 1]
        if short:
            raise ValueError(f"block lengths must be 1 or more, or null for the whole row; got {short[0]}")
        self.stages = dict(sorted(stages.items()))

    def at(self, step: int) -> int | None:
        """The block length of an optimiser step, None for the whole row.

        Args:
            step: steps taken before it.
        """
        return self.stages[max(first for first in self.stages if first <= step)]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(pl_module, trainer.global_step)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._set(pl_module, trainer.global_step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._set(pl_module, trainer.global_step)

    def _set(self, pl_module: LightningModule, step: int) -> None:
        backbone: Any = getattr(pl_module, "backbone", pl_module)
        _check(backbone)
        length = self.at(step)
        backbone.block_length = backbone.max_length if length is None else length


def _check(backbone: nn.Module) -> None:
    if getattr(backbone, "block_length", None) is None:
        raise ValueError(
            f"BlockLengths needs a backbone that is built with blocks; {type(backbone).__name__} has "
            "block_length=None; give it one, such as --model.backbone.block_length 32"
        )
