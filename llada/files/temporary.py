"""Temporary names beside a file or folder that is being written: nobody else's, and removed once their process is dead.

A name holds 64 random bits, since process numbers repeat between containers that share a disk. Its process holds a
lock (``flock``) on it for as long as it lives; the system lifts the lock, however the process ends. So whoever gets the
lock of a name knows that it was left behind. Where a file system has no locks, nothing is removed.
"""

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".llada.tmp"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def named_after(path: Path) -> Iterator[None]:
    """Let errors of a temporary name tell the name that was asked for."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def claimed_file(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new empty file beside ``path``, open for reading and writing; removed at the end unless it was renamed."""
    remove_leftovers(path.parent, path.name)
    while True:
        temporary = _name_beside(path)
        with named_after(path):
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        file = os.fdopen(descriptor, "w+b", buffering=1 << 20)
        if not lock(file.fileno(), wait=True) or temporary.exists():  # nobody took it for a leftover
            break
        file.close()
    try:
        with file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def claimed_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder beside ``folder``; removed at the end unless it was renamed."""
    remove_leftovers(folder.parent, folder.name)
    while True:
        temporary = _name_beside(folder)
        with named_after(folder):
            temporary.mkdir()
        descriptor = _open(temporary)
        if descriptor is None or not lock(descriptor, wait=True) or temporary.exists():
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what processes that died in the middle of a write have left.

    Args:
        folder: where to look.
        name: file or folder that was being written, with ``*`` for any characters at its start.
    """
    any_start = name.startswith("*")
    for found in folder.glob(f".*{SUFFIX}"):
        written = found.name[1:].removesuffix(SUFFIX).rpartition(".")[0]
        if not (written.endswith(_short(name[1:])) if any_start else written == _short(name)):
            continue
        descriptor = _open(found)
        if descriptor is None:
            continue
        if lock(descriptor, wait=False):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                with suppress(OSError):
                    found.unlink()
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Make sure that the names of a folder are on the disk, where the system can do that."""
    descriptor = _open(folder)
    if descriptor is not None:
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one operation, and say whether this system and file system could."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    return bool(rename(_HERE, names[0], _HERE, names[1], ctypes.c_uint(_EXCHANGE)) == 0)


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{_short(path.name)}.{secrets.token_hex(8)}{SUFFIX}")


def _short(name: str) -> str:
    """The end of a name, so that a long one stays within what file systems take."""
    return name[-40:]


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return None


def lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock of an open file or folder.

    Args:
        descriptor: of the file; closing it lifts the lock.
        wait: until it is free.

    Returns:
        Whether it was got; false also where the file system has no locks, so that nothing is ever taken for free.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def has_locks(descriptor: int) -> bool:
    """Whether the file system of an open file has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True
