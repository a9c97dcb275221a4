"""What a training shows: a summary of its own, and none of the notices that tell a user nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, RichProgressBar
from typing_extensions import override

_NOTICES = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡 Tip",
    "Seed set to",
    "`Trainer.fit` stopped",
    "`Trainer(limit_",
    "`Trainer(val_check_interval=",
    "`weights_only` was not set",
    "Restored all states",  # and these two follow a line that says from where
    "Loaded model weights",
    "\nDetected KeyboardInterrupt",  # llada.cli.boundary says so
)
"""Beginnings of lines that Lightning writes in every run."""
_WARNINGS = (r".*isinstance\(treespec, LeafSpec\)", r"Checkpoint directory .* exists and is not empty")
"""About Lightning's own code, and about what `llada.cli.earlier_run` looks at."""
_OWN = frozenset({"lightning", "llada"})
"""Packages whose files say nothing to a user who is warned."""
_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")
_PREPARING = "llada.data"
"""Whose loggers say what a run does before its first step, which may take minutes."""


def _tells(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOTICES)


def _line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    where = "" if _OWN & set(Path(filename).parts) else f"{filename}:{lineno}: "
    return f"{where}warning: {message}\n"


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the notices, and show what is said of the data, within the block alone."""
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    form = warnings.formatwarning
    warnings.formatwarning = _line
    for handler in handlers:
        handler.addFilter(_tells)
    try:
        with warnings.catch_warnings(), _shown(logging.getLogger(_PREPARING)):
            for text in _WARNINGS:
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        warnings.formatwarning = form
        for handler in handlers:
            handler.removeFilter(_tells)


@contextmanager
def _shown(logger: logging.Logger) -> Iterator[None]:
    """Show what a logger says on the standard error, unless somebody has decided otherwise."""
    if logger.hasHandlers() or logger.level:
        yield
        return
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


class Summary(ModelSummary):
    """Three lines about a training before it begins: the model, how it is trained, and with how many tokens."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("\n".join(summary(trainer, pl_module)), flush=True)


def summary(trainer: Trainer, model: Any) -> list[str]:
    """The lines of a `Summary`.

    Args:
        trainer: with its data.
        model: the module.
    """
    sizes = [(p.numel(), p.requires_grad, p.numel() * p.element_size()) for p in model.parameters()]
    total, trained = sum(n for n, _, _ in sizes), sum(n for n, learns, _ in sizes if learns)
    kind = type(getattr(model, "backbone", model)).__name__
    frozen = "" if trained == total else f", {trained:,} of them trained"
    names = [type(part).__name__ for name in ("objective", "sampler") if (part := getattr(model, name, None))]
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}" if trainer.world_size > 1 else ""
    return [
        f"model    {kind}, {total:,} parameters{frozen}, {sum(size for _, _, size in sizes) / 1e6:.1f} MB",
        f"training {', '.join(names)}; {devices or trainer.strategy.root_device.type}, {trainer.precision}",
        f"data     {tokens(trainer)}",
    ]


def tokens(trainer: Trainer) -> str:
    """How many tokens a training sees, as far as its data say how long rows are.

    Args:
        trainer: with its data.
    """
    data = getattr(trainer, "datamodule", None)
    rows, length = getattr(data, "batch_size", None), getattr(data, "max_length", None)
    steps = f"{trainer.max_steps:,} steps" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
    if not isinstance(rows, int) or not isinstance(length, int):
        return steps
    per_step = rows * length * trainer.world_size * trainer.accumulate_grad_batches
    whole = f", {per_step * trainer.max_steps:,} in all" if trainer.max_steps > 0 else ""
    return f"up to {per_step:,} tokens per step, {steps}{whole}"


class Bar(RichProgressBar):
    """Lightning's bar, which counts epochs to an end only where there is one, and shows no number of a log folder."""

    @override
    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        return f"Epoch {current_epoch}" + ("" if last in (None, -1) else f"/{(last or 0) - 1}")

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        found = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in found.items() if name != "v_num"}


def ours(callback: Callback) -> Callback:
    """What takes the place of a callback that Lightning added by itself; the callback itself for others.

    Args:
        callback: of a new Trainer.
    """
    if isinstance(callback, ModelSummary) and type(callback).__module__.startswith("lightning."):
        return Summary()
    return Bar() if type(callback) is RichProgressBar else callback
