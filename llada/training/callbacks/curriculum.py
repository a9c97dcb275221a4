"""Duo's curriculum as a callback: softened tokens at first, whose temperature changes by the step, then tokens."""

import dataclasses
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from llada.objectives import NELBO, IndependentMasks, TemperedTokens


class TokenCurriculum(Callback):
    """Train on `TemperedTokens` for a number of optimiser steps, and on hard tokens afterwards.

    It exchanges the design of the module's objective from step to step; the step alone decides, so a run resumes as it
    was.

    Args:
        steps: length of the curriculum; Duo: the first half of the training.
        start: temperature at the first step; Duo: 1e-3.
        end: temperature at the last one; in between it changes evenly in its logarithm.
        top_k: how many tokens are mixed at a position.

    Raises:
        ValueError: if ``steps`` is less than 1 or a temperature isn't above 0.

    Reference:
        arXiv 2506.10892, section 4.

    Examples:
        >>> from llada.objectives import PlainCrossEntropy, TemperedTokens
        >>> from llada.training.callbacks import TokenCurriculum
        >>> objective, callback = PlainCrossEntropy(TemperedTokens()), TokenCurriculum(steps=101, start=1.0, end=0.01)
        >>> [round(callback.temperature(step), 2) for step in (0, 50, 100)]
        [1.0, 0.1, 0.01]
    """

    def __init__(self, steps: int, start: float = 1e-3, end: float = 1e-3, top_k: int = 8) -> None:
        if steps < 1 or not (start > 0.0 and end > 0.0):
            raise ValueError(f"steps must be 1 or more, temperatures above 0; got {steps}, {start} and {end}")
        self.steps, self.start, self.end, self.top_k = steps, start, end, top_k

    def temperature(self, step: int) -> float:
        """The temperature of an optimiser step, counted from 0."""
        done = min(step / max(self.steps - 1, 1), 1.0)
        return float(self.start ** (1.0 - done) * self.end**done)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Give the objective the design of this step.

        Raises:
            ValueError: if the objective's design isn't `IndependentMasks`.
        """
        objective = pl_module.objective
        design = objective.design if isinstance(objective, NELBO) else None
        if not isinstance(objective, NELBO) or type(design) not in (IndependentMasks, TemperedTokens):
            raise ValueError(f"TokenCurriculum softens the tokens of NELBO(IndependentMasks(...)); got {objective}")
        assert isinstance(design, IndependentMasks)
        wanted = IndependentMasks(design.times, design.per_segment)
        if trainer.global_step < self.steps:
            temperature = self.temperature(trainer.global_step)
            wanted = TemperedTokens(design.times, design.per_segment, temperature, self.top_k)
        if wanted != design:
            pl_module.objective = dataclasses.replace(objective, design=wanted)
