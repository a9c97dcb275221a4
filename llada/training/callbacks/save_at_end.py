"""Nothing trained is lost: a run is saved when it ends, whatever ends it.

Lightning's `ModelCheckpoint` saves after validations or every so many steps; what was trained since then is lost at the
last step, on a signal and on an error. `SaveAtEnd` closes the gap. ``llada fit`` adds it to the Trainer.
"""

import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from typing_extensions import override

from llada.files.folder_lock import FolderLock
from llada.training.callbacks.averaging import EMAWeightAveraging
from llada.training.callbacks.interrupts import Interrupted, Interrupts
from llada.training.callbacks.next_command import next_command, shown
from llada.training.callbacks.run_file import keeps_newest, model_checkpoints, run_file, saved_at

NONFINITE = "nothing was saved after it"
"""What the guard of the training says when a number is no longer finite."""


class Ending(NamedTuple):
    """How a run has ended.

    Attributes:
        path: checkpoint of the last step; None if there is none.
        step: optimiser steps so far.
        began: optimiser steps when it began.
        reason: why nothing was saved; empty if something was.
        best: lowest value of the watched metric, and the step at which it was seen; None without validation.
        monitor: name of the metric.
        skipped: optimiser steps of the run that were left out, since a number wasn't finite.
        following: the command that tries the model.
    """

    path: Path | None
    step: int
    began: int
    reason: str
    best: tuple[float, int] | None
    monitor: str
    skipped: int = 0
    following: str = ""

    def __str__(self) -> str:
        """The last lines of a run: where its model is, how good it was, and what to do next."""
        best = "" if self.best is None else f"; best {self.monitor} {self.best[0]:.4f} at step {self.best[1]}"
        if self.skipped:
            best += f"; {self.skipped} of {self.step} steps were left out, whose numbers weren't finite"
        if self.path is None:
            return f"nothing was saved at step {self.step}: {self.reason}{best}"
        return f"saved {shown(self.path)} at step {self.step}{best}\nnext: {self.following}"


class SaveAtEnd(Checkpoint):
    """Saves at the end of `fit`, on a signal, and on an error, into the file of the run.

    What it writes is named by `llada.training.callbacks.run_file`: ``model.ckpt`` of the shipped configurations.

    - SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1: saves after the optimiser step, or after the validation, and ends
      with 128 plus the signal's number: 143, 130, 129, 138. A second signal of the kind doesn't wait, which is said
      if the first comes in a validation.
    - Slurm's requeue signal (SIGUSR1), where Lightning puts the job back into the queue: that is done after the
      optimiser step; the run goes on until Slurm ends it.
    - An error: saves the last finished step, unless a number is no longer finite, the error fell into an optimiser
      step, or one of several ranks has failed alone, for which the others would wait.
    - Two runs in one folder: the second is refused, as each would replace the other's checkpoints.

    Args:
        monitor: metric whose lowest value is reported.
        share_folder: start although another run writes to the folder.
    """

    def __init__(self, monitor: str = "val/nll", share_folder: bool = False) -> None:
        self.monitor, self.share_folder = monitor, share_folder
        self.best_model_path = ""
        self.ending: Ending | None = None
        self._interrupts, self._lock = Interrupts(), FolderLock(Path())
        self._began = self._saved = self._batch_began = -1
        self._in_step = self._agreed = self._waits = False
        self._best: tuple[float, int] | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.ending, self._best, self._began, self._saved = None, None, -1, -1
        folder = run_file(trainer).parent
        holder: str | None = None
        if trainer.is_global_zero and not self.share_folder:
            self._lock = FolderLock(folder)
            holder = self._lock.take()
        holder = trainer.strategy.broadcast(holder)
        if holder is not None:
            raise ValueError(
                f"{folder} is being written to by another run ({holder}), and each would replace the "
                "other's checkpoints; give this one another folder (--run_folder), wait, or set "
                "--share_folder=true"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._batch_began = trainer.global_step
        self._in_step = self._agreed = self._waits = False
        self._interrupts.watch(trainer._accelerator_connector.cluster_environment)  # it has no public name

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch_began = trainer.global_step

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._in_step = True

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._in_step = False
        if trainer.global_step != self._batch_began:
            self._end_if_asked(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if self._began >= 0 and self._interrupts.ends and not self._waits:
            self._waits = True
            name = signal.Signals(self._interrupts.received).name
            print(f"{name}: the run ends after this validation; once more ends it now, saved too", file=sys.stderr)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and not trainer.sanity_checking and (self._best is None or float(value) < self._best[0]):
            self._best = float(value), trainer.global_step
        if self._began >= 0 and trainer.global_step != self._batch_began:
            self._end_if_asked(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        max_steps, max_epochs = trainer.max_steps, trainer.max_epochs
        last_step = max_steps != -1 and trainer.global_step >= max_steps
        last_epoch = max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (max_epochs or 0)
        if last_step or last_epoch or trainer.should_stop:  # before the average takes the place of the weights
            self._save(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interrupts.stop()
        self._save(trainer)
        self._end(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._interrupts.stop()
        if self._began >= 0 and self.ending is None:
            self._rescue(trainer, pl_module, exception)
        self._lock.release()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._lock.release()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": None if self._best is None else list(self._best)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self._best = None if best is None else (float(best[0]), int(best[1]))

    def _rescue(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        reason = self._unsafe(trainer, pl_module, exception)
        if not reason:
            try:
                self._save(trainer)
            except Exception as error:  # what stopped the run is to be seen, not this
                reason = f"saving failed: {error}"
        self._end(trainer, reason)

    def _end_if_asked(self, trainer: Trainer) -> None:
        """Raise on all ranks if one of them has got a signal."""
        received = torch.tensor(self._interrupts.received, device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            received = trainer.strategy.reduce(received, reduce_op="max")
        if int(received) and not self._interrupts.put_off(int(received)):
            self._agreed = True
            raise Interrupted(int(received))

    def _unsafe(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> str:
        """Why the run can't be saved as it stands; empty if it can."""
        if NONFINITE in str(exception):
            return "its numbers are no longer finite"
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if self._in_step and getattr(progress, "processed", 0) < progress.ready:
            return "it ended within an optimiser step"
        if self._agreed:
            return ""
        if trainer.world_size > 1:
            return "one of several ranks ended on its own"
        swapped = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        if trainer.validating and not all(isinstance(c, EMAWeightAveraging) for c in swapped):
            return "it ended while averaged weights were validated"
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters() if p.is_floating_point()):
            return "its weights are no longer finite"
        return ""

    def _save(self, trainer: Trainer) -> None:
        """Save the last step, unless that is done or there is none."""
        step = trainer.global_step
        if trainer.fast_dev_run or step in (self._saved, self._began):  # type: ignore[attr-defined]
            return
        path = run_file(trainer)
        saved = saved_at(trainer, path, step)
        if saved is None:
            for callback in model_checkpoints(trainer):
                if keeps_newest(callback):
                    callback.best_model_path = str(path)  # part of what is saved, so that a resumed run goes on with it
                    break
            trainer.save_checkpoint(path)
        self._saved, self.best_model_path = step, str(saved or path)

    def _end(self, trainer: Trainer, reason: str = "") -> None:
        step = trainer.global_step
        if not reason and self._saved != step:
            reason = "fast_dev_run saves nothing" if trainer.fast_dev_run else "no step was trained"  # type: ignore[attr-defined]
        path = None if reason else Path(self.best_model_path)
        loop = getattr(trainer.lightning_module, "training_loop", None)
        skipped = 0 if loop is None else loop.guard.skipped
        data = getattr(trainer, "datamodule", None)
        following = "" if path is None else next_command(path, trainer.lightning_module, data)
        self.ending = Ending(path, step, max(self._began, 0), reason, self._best, self.monitor, skipped, following)
