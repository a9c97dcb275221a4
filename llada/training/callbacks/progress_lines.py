"""Progress where a bar can't be drawn: in a pipe, in a file, in the log of a batch system."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override


class ProgressLines(Callback):
    """Writes a line to the standard error every few seconds: the step, the loss, and how long it may still take.

    A validation in the course of a training has a line with the metrics that a bar would show.

    Args:
        seconds: between two lines; a step that takes longer gets a line of its own.

    Raises:
        ValueError: if ``seconds`` isn't above 0.

    Examples:
        >>> from llada.training.callbacks import ProgressLines
        >>> callback = ProgressLines(seconds=5.0)
    """

    def __init__(self, seconds: float = 8.0) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0; got {seconds}")
        self.seconds = seconds
        self._begun = self._said = 0.0
        self._first = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = self._said = time.monotonic()
        self._first = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        said = [f"step {trainer.global_step:,}{_of(trainer.max_steps)}"]
        said += [] if loss is None else [f"loss {float(loss):.3f}"]
        done, left = trainer.global_step - self._first, trainer.max_steps - trainer.global_step
        if done and left > 0:
            said.append(f"about {clock((time.monotonic() - self._begun) / done * left)} to go")
        self._say(trainer, ", ".join(said))

    @override
    def on_validation_batch_end(self, trainer: Trainer, *arguments: Any, **_: Any) -> None:
        batch = arguments[3]
        loaders = trainer.num_val_batches
        whole = loaders[0] if len(loaders) == 1 and loaders[0] != float("inf") else -1
        self._say(trainer, f"validation, batch {batch + 1:,}{_of(int(whole))}")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shown = {name: value for name, value in trainer.progress_bar_metrics.items() if not name.startswith("train/")}
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and shown:
            values = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            self._say(trainer, f"step {trainer.global_step:,}{_of(trainer.max_steps)}, {values}", at_once=True)

    def _say(self, trainer: Trainer, line: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if trainer.is_global_zero and (at_once or now - self._said >= self.seconds):
            self._said = now
            print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A time such as 1:05 or 2:00:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _of(whole: int) -> str:
    return f" of {whole:,}" if whole > 0 else ""
