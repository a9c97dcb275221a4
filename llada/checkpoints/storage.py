"""How the Trainer's checkpoints get to the disk and back: whole or not at all, and without unpickling objects.

``llada fit`` gives the Trainer an `AtomicCheckpointIO`; in Python it is ``Trainer(plugins=[AtomicCheckpointIO()])``.
Lightning's own writes to a file in ``TMPDIR`` and moves it, which truncates the old checkpoint and copies where
``TMPDIR`` is on another disk; and it unpickles objects that come by http. `AtomicModelParallelStrategy` does for the
folders of several ranks what the first does for files.
"""

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
import torch.distributed as dist
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override

from llada.checkpoints.checkpoint import read_checkpoint
from llada.files.atomic import replacing, swap_folder
from llada.files.temporary import claimed_folder, remove_leftovers

VERSION_KEY = "pytorch-lightning_version"
"""Of the entry that the Trainer reads first."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it; reads with `read_checkpoint`.

    Whatever interrupts a write, the old file or the new one is there, on any disk that can rename. What a killed run
    left of its temporary files is removed by the next write to the folder. Object stores such as ``s3://`` replace
    objects as a whole by themselves; they are written as Lightning does it.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        place = local_path(path)
        if place is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place.parent, "*" + place.suffix)
        with replacing(place) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = read_anywhere(path, map_location)
        if not isinstance(checkpoint.get(VERSION_KEY), str):
            raise ValueError(f"{path} is damaged: it doesn't say which Lightning wrote it ({VERSION_KEY})")
        return checkpoint


class AtomicModelParallelStrategy(ModelParallelStrategy):
    """`ModelParallelStrategy` whose folders take the old one's place when all ranks have written their part.

    Args:
        shard_size: ranks that share one copy of the weights, such as the cards of a node; None: all of them.
        options: of ``ModelParallelStrategy``.
    """

    def __init__(self, *, shard_size: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.shard_size = shard_size

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        place = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, place, storage_options)
            return
        if dist.get_rank() != 0:
            work = self.broadcast(None)
            super().save_checkpoint(checkpoint, Path(str(work)), storage_options)
            self.barrier("written")
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place.parent, "*" + place.suffix)
        with claimed_folder(place) as work:
            self.broadcast(str(work))
            super().save_checkpoint(checkpoint, work, storage_options)
            self.barrier("written")
            swap_folder(work, place)


def local_path(path: Any) -> Path | None:
    """The place of a path or ``file://`` address on this machine's disks; None if it is elsewhere."""
    text = str(path)
    scheme = urlparse(text).scheme
    if "://" not in text:
        return Path(path)
    return Path(url2pathname(urlparse(text).path)) if scheme in ("file", "local") else None


def read_anywhere(path: Any, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint from a path or an address, always with ``weights_only=True``.

    Args:
        path: file, or an address that fsspec understands, such as ``https://``, ``s3://`` or ``file://``.
        map_location: device on which the weights are placed; None for the CPU.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: as in `read_checkpoint`.
    """
    place = local_path(path)
    if place is not None and "://" in str(path) and not place.is_absolute():
        raise FileNotFoundError(
            f"{path} names no file; behind file:// stands a whole path, such as file:///folder/model.ckpt"
        )
    if place is not None:
        return read_checkpoint(place, map_location, mmap=False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (Path(urlparse(str(path)).path).name or "checkpoint")
        _fetch(str(path), copy)
        return read_checkpoint(copy, map_location, mmap=False, name=str(path))


def _fetch(address: str, copy: Path) -> None:
    try:
        if urlparse(address).scheme in ("http", "https"):
            torch.hub.download_url_to_file(address, str(copy), progress=False)
        else:
            get_filesystem(address).get_file(address, str(copy))
    except (OSError, ImportError, ValueError) as error:
        raise FileNotFoundError(f"there is no checkpoint {address}: {error}") from error
