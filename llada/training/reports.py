"""What evaluation results are called where there are several loaders: each has its own, none is pooled.

    one loader              val/nll
    a list of them          val/nll/dataloader_idx_0, val/nll/dataloader_idx_1, ...
    a dictionary of them    val/nll/owt, val/nll/lm1b, ...

The noise of each is that which it has alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn


def loader_names(trainer: Trainer, stage: str) -> list[str]:
    """The name of each loader of the evaluation that is running, in order; one loader alone has the name "".

    Args:
        trainer: which runs it.
        stage: "val" or "test".
    """
    loop = trainer.validate_loop if stage == "val" else trainer.test_loop
    if trainer.state.fn == TrainerFn.FITTING:
        loop = trainer.fit_loop.epoch_loop.val_loop
    combined = loop._combined_loader  # Trainer.val_dataloaders answers for fit even where validate is running
    assert combined is not None
    number = len(combined.flattened)
    names = list(_names(combined.iterables))
    if number == 1:
        return [""]
    return names if len(names) == number else [f"dataloader_idx_{index}" for index in range(number)]


def _names(loaders: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(loaders, Mapping):
        for key, value in loaders.items():
            yield from _names(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(loaders, list | tuple):
        for index, value in enumerate(loaders):
            yield from _names(value, f"{prefix}/{index}" if prefix else f"dataloader_idx_{index}")
    else:
        yield prefix


def bytes_per_token(trainer: Trainer, stage: str, name: str) -> float | None:
    """Bytes that a token of a loader's text stands for on average, as the data module tells; None if it doesn't.

    Args:
        trainer: with the data module, whose ``val_bytes_per_token`` or ``test_bytes_per_token`` is a number for a
            single loader, and a dictionary by name for several.
        stage: "val" or "test".
        name: of the loader, see `loader_names`.
    """
    known: Any = getattr(getattr(trainer, "datamodule", None), f"{stage}_bytes_per_token", None)
    if isinstance(known, Mapping):
        return known.get(name)
    return None if name else known
