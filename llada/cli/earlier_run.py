"""A run replaces no model of an earlier one, unless it goes on with it or is told to."""

from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from llada.training.callbacks.run_file import model_checkpoints


def check_free(trainer: Trainer) -> None:
    """Refuse a run that would replace the checkpoints of an earlier one.

    Callbacks that count versions write beside what is there, and are left alone.

    Args:
        trainer: before it has begun.

    Raises:
        ValueError: naming the checkpoint, and what can be done.
    """
    there = next((path for callback in model_checkpoints(trainer) for path in _replaced(callback)), None)
    if there is not None:
        raise ValueError(
            f"{there} is the model of an earlier run, which this one would replace; go on with it by --ckpt_path last, "
            "give this run another folder (--run_folder), or say --overwrite"
        )


def _replaced(callback: ModelCheckpoint) -> Iterator[Path]:
    """The checkpoints that are there and could get another content."""
    if callback.dirpath is None or callback._enable_version_counter or not Path(callback.dirpath).is_dir():
        return
    folder = Path(callback.dirpath)
    name = callback.filename
    if name is None or "{" in name:  # which names it will write isn't known yet
        yield from sorted(folder.glob(f"*{callback.FILE_EXTENSION}"))
        return
    names = [name, callback.CHECKPOINT_NAME_LAST] if callback.save_last else [name]
    for each in names:
        path = folder / f"{each}{callback.FILE_EXTENSION}"
        if path.exists():
            yield path
