"""The place from which a checkpoint goes on: always the last optimiser step that was finished.

Weights change at optimiser steps alone, but the Trainer saves in between, too: after the first micro-batch that follows
a resume, by the clock, after a validation, on an error. Its counters then stand in the middle of a window of
micro-batches whose half-gathered gradient isn't stored. So every checkpoint gets the counters, and the data loader's
place, of the last step: what came after it is computed again, from the same rows and the same noise. The same holds for
runs that have ended: Lightning takes an epoch that ``max_steps`` cuts short for a whole one.

Nothing else sets a counter of the Trainer: what is stored here is restored by the Trainer itself.
"""

from copy import deepcopy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override


class ResumePoint(Callback):
    """Puts the counters of the last finished step into every checkpoint of a training.

    Every `llada.DiffusionLM` brings it along (`llada.training.attach`); it needn't be given to the Trainer. A module of
    another kind that trains on the data of this library needs it among its callbacks to go on in mid-epoch.
    """

    def __init__(self) -> None:
        self._place: dict[str, Any] | None = None
        self._step = 0

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._place = deepcopy(checkpoint.get("loops", {}).get("fit_loop"))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if self._place is None:
            self._note(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:
            self._note(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._place is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.global_step != self._step:  # another callback saves, or has failed, between the step and our note
            self._note(trainer)
        checkpoint["loops"]["fit_loop"] = deepcopy(self._place)

    def _note(self, trainer: Trainer) -> None:
        place = (
            trainer.fit_loop.state_dict()
        )  # counters that are copies already, and the loader's state, which may not be
        self._place, self._step = {**place, "state_dict": deepcopy(place["state_dict"])}, trainer.global_step
