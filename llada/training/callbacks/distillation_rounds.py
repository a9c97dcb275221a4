"""Distillation in rounds: the student becomes the teacher of one with half as many steps."""

import dataclasses
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from llada.objectives import ConsistencyDistillation, SelfDistillation
from llada.training.callbacks.frozen_reference import FrozenReference


class DistillationRounds(FrozenReference):
    """After every so many optimiser steps, copies the student into its teacher and halves the number of steps.

    It takes the place of `FrozenReference` for `llada.objectives.SelfDistillation` and
    `llada.objectives.ConsistencyDistillation`. What the teacher is then lies in the checkpoint, so that a resumed run
    goes on with it.

    Args:
        every: optimiser steps of a round; SDTT and Duo: 10000.
        checkpoint: of the first teacher, as in `FrozenReference`.

    Raises:
        ValueError: if ``every`` is less than 1.

    Reference:
        arXiv 2410.21035, algorithm 2; arXiv 2506.10892, algorithm 1 (``update_teacher_every``).

    Examples:
        >>> from llada.objectives import SelfDistillation
        >>> from llada.training.callbacks import DistillationRounds
        >>> objective, callback = SelfDistillation(num_steps=32), DistillationRounds(every=10_000)
    """

    def __init__(self, every: int, checkpoint: str | None = None) -> None:
        super().__init__(checkpoint)
        if every < 1:
            raise ValueError(f"every must be 1 or more; got {every}")
        self.every = every
        self._round, self._first = 0, 0
        self._teacher: dict[str, torch.Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the copy where the model is, and make it the teacher of the round that is resumed.

        Raises:
            ValueError: if the objective has no steps to halve, or a resumed run began with other weights.
        """
        objective = pl_module.objective
        if not isinstance(objective, SelfDistillation | ConsistencyDistillation):
            raise ValueError(
                "DistillationRounds halves the steps of SelfDistillation or ConsistencyDistillation; got "
                f"{type(objective).__name__}; FrozenReference keeps one teacher for all others"
            )
        super().on_fit_start(trainer, pl_module)
        self._first = objective.num_steps
        if self._round and self._copy is not None:
            self._copy.load_state_dict(self._teacher)
            self._steps(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin the round of this step."""
        reached = trainer.global_step // self.every
        if reached == self._round or self._copy is None:
            return
        self._round = reached
        self._copy.load_state_dict(pl_module.backbone.state_dict())  # type: ignore[union-attr]
        self._steps(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the objective its steps back, as it was configured."""
        if self._first:
            pl_module.objective = dataclasses.replace(pl_module.objective, num_steps=self._first)  # type: ignore[type-var]

    def _steps(self, pl_module: LightningModule) -> None:
        wanted = max(1, self._first // 2**self._round)
        if pl_module.objective.num_steps != wanted:  # type: ignore[union-attr]
            pl_module.objective = dataclasses.replace(pl_module.objective, num_steps=wanted)  # type: ignore[type-var]

    def state_dict(self) -> dict[str, Any]:
        """The reference's fingerprint, the round, and the teacher's weights."""
        teacher = {} if self._copy is None or not self._round else self._copy.state_dict()
        return {**super().state_dict(), "round": self._round, "teacher": teacher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the round of the run that is resumed."""
        self._round, self._teacher = state_dict["round"], state_dict["teacher"]
        super().load_state_dict({name: state_dict[name] for name in state_dict if name not in ("round", "teacher")})
