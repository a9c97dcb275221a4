"""Writing files and folders so that a reader finds the old one or the new one, never a part."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by ``content``; whatever interrupts this, the old file or the new one is there."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def build_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Make a folder whole, or not at all; nothing happens if it is there.

    Args:
        folder: to be made.
        build: fills a temporary folder, which then gets the name. Two processes may build at once: the first to finish
            wins, and the other uses its folder.
    """
    if folder.is_dir():
        return
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        build(temporary)
        os.rename(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
