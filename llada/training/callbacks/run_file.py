"""The file of a run: the one checkpoint that always holds its last step."""

import os
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def run_file(trainer: Trainer) -> Path:
    """Where the last step of a run is saved.

    The file that a `ModelCheckpoint` of a fixed name and without ``monitor`` keeps up to date, such as ``model.ckpt``;
    else ``last.ckpt`` in the folder of the first `ModelCheckpoint`, or in that of the Trainer. A file of another run is
    left alone where the callback counts versions; a run that goes on from a checkpoint replaces its file.
    """
    callbacks = model_checkpoints(trainer)
    newest = next((callback for callback in callbacks if keeps_newest(callback)), None)
    if newest is not None:
        if newest.best_model_path and _folder_of(newest.best_model_path) == _folder_of(
            newest.format_checkpoint_name({})
        ):
            return Path(newest.best_model_path)
        return _free(Path(newest.format_checkpoint_name({})), newest, trainer)
    first = callbacks[0] if callbacks else None
    folder = first.dirpath if first is not None and first.dirpath else Path(trainer.default_root_dir) / "checkpoints"
    if (
        first is not None
        and first.last_model_path
        and _folder_of(first.last_model_path) == Path(os.path.abspath(folder))
    ):
        return Path(first.last_model_path)
    return _free(Path(folder) / "last.ckpt", first, trainer)


def run_folders(trainer: Trainer) -> list[Path]:
    """Where a run and those before it have written their checkpoints."""
    found = [Path(c.dirpath) for c in model_checkpoints(trainer) if c.dirpath]
    if found:
        return list(dict.fromkeys(found))
    logs = [Path(logger.save_dir) / str(logger.name) for logger in trainer.loggers if logger.save_dir]
    versions = [path for folder in logs for path in folder.glob("*/checkpoints")]
    return [*versions, Path(trainer.default_root_dir) / "checkpoints"]


def saved_at(trainer: Trainer, path: Path, step: int) -> Path | None:
    """The file, or else another whole checkpoint, in which a `ModelCheckpoint` has saved a step already."""
    found = [
        (callback, Path(str(getattr(callback, "_last_checkpoint_saved", ""))))
        for callback in model_checkpoints(trainer)
        if getattr(callback, "_last_global_step_saved", -1) == step and not callback.save_weights_only
    ]
    if any(keeps_newest(callback) for callback in model_checkpoints(trainer)):
        found = [(callback, saved) for callback, saved in found if saved == path]
    return next((saved for _, saved in found if saved.exists()), None)


def model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """Lightning's saving callbacks, in their order."""
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def keeps_newest(callback: ModelCheckpoint) -> bool:
    """Whether a callback keeps one file of a fixed name up to date."""
    fixed = callback.filename is not None and "{" not in callback.filename
    return fixed and callback.monitor is None and callback.save_top_k == 1 and not callback.save_weights_only


def _free(path: Path, callback: ModelCheckpoint | None, trainer: Trainer) -> Path:
    """The path, or ``name-v1``, ``name-v2``, ... where it is another run's."""
    counts = getattr(callback, "_enable_version_counter", True)
    if not counts or trainer.ckpt_path is not None:
        return path
    version, free = 0, path
    while free.exists():
        version += 1
        free = path.with_name(f"{path.stem}-v{version}{path.suffix}")
    return free


def _folder_of(path: str | Path) -> Path:
    return Path(os.path.abspath(path)).parent
