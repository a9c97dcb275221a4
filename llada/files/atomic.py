"""Writing files and folders so that a reader finds the old one or the new one, never a part.

Everything is written under a temporary name beside its place, flushed to the disk, and renamed when it is complete;
renaming within one file system is atomic. The names are those of `llada.files.temporary`: no other process has them,
and what a killed process left behind is removed by the next one that writes to the same place.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llada.files.temporary import claimed_file, claimed_folder, exchange, flush_folder, named_after


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, open for writing, that takes the place of ``path`` when the block ends without an error.

    Args:
        path: file to be made or replaced, in an existing folder. If the block fails, it stays as it was.

    Yields:
        A seekable binary file.

    Raises:
        OSError: naming ``path``, if it can't be written.
    """
    try:
        with claimed_file(path) as (temporary, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
            flush_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by ``content``; whatever interrupts this, the old file or the new one is there."""
    with replacing(path) as file:
        file.write(content)


def build_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Make a folder whole, or not at all; nothing happens if it is there.

    Args:
        folder: to be made.
        build: fills a temporary folder, which then gets the name. Two processes may build at once: the first to finish
            wins, and the other uses its folder.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed_folder(folder) as temporary:
        build(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise


def swap_folder(new: Path, folder: Path) -> None:
    """Let a complete folder take the place of another, or of a file, or of nothing.

    Where the system can exchange two names at once (Linux, most local file systems), there is no instant without one of
    the two; elsewhere there is one, in which the old folder lies beside under the name ``.<folder>.old.*``.

    Args:
        new: the folder, beside ``folder``. Afterwards it isn't there.
        folder: the name that it gets.
    """
    for path in new.rglob("*"):
        _flush(path)
    if folder.is_file():
        folder.unlink()
    _swap(new, folder)
    flush_folder(folder.parent)


def replace_folder(
    folder: Path, build: Callable[[Path], None], outdated: Callable[[Path], Collection[str]] = lambda old: ()
) -> None:
    """Make a folder, or replace an old one, as a whole.

    Whatever interrupts this, the old folder is there with all it held; see `swap_folder`.

    Args:
        folder: to be made.
        build: fills a temporary folder beside it, which then gets the name.
        outdated: names of the old folder's files that go with it. All others, such as notes, are kept, unless ``build``
            writes files of their names.

    Raises:
        ValueError: if ``folder`` is a file, or the working directory is in it.
    """
    folder = folder.resolve()  # what a link points to is replaced, not the link
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    if folder.is_dir() and Path.cwd().is_relative_to(folder):
        raise ValueError(f"{folder} holds the working directory, which can't be replaced; name a folder inside it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with named_after(folder):
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        build(work)
        if folder.is_dir():
            _keep(folder, work, outdated(folder))
        work.chmod(0o755)
        swap_folder(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _keep(folder: Path, work: Path, outdated: Collection[str]) -> None:
    for path in folder.iterdir():
        kept = work / path.name
        if path.name in outdated or kept.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, kept, symlinks=True, copy_function=_link)
        else:
            _link(path, kept)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(path: Path) -> None:
    """Make sure that a file is on the disk before it counts as written."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(work: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(work, folder)
        return
    if exchange(work, folder):
        shutil.rmtree(work, ignore_errors=True)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / folder.name
    try:
        os.replace(folder, old)
        os.replace(work, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
