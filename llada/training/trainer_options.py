"""Values of the Trainer's options that it would stumble over in the middle of a run, or ignore without a word."""

from typing import Any

from lightning.pytorch import Trainer


def check_options(trainer: Trainer) -> None:
    """Refuse them.

    Raises:
        ValueError: naming option and value.
    """
    clip: Any = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        raise ValueError(f"gradient_clip_val must be above 0, or None for no clipping; got {clip}")
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        value: Any = getattr(trainer, name)
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")
