"""One process at a time in a folder: a file that names its holder, under a lock that ends with the holder's life.

Containers and machines may share a folder, and process numbers repeat between them, so a number alone says nothing.
The lock (``flock``) is the system's: it holds across containers and, on NFS, across machines, and whatever ends a
process lifts it. Where a file system has no locks, a holder on this machine counts as long as its process lives, and
one on another machine until somebody says otherwise.
"""

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llada.files.temporary import has_locks, lock

NAME = ".llada.lock"
_TAKEN: set[int] = set()
"""Open files of this process's claims."""


def _let_go() -> None:
    """A lock ends when its last copy is closed, so that a worker which outlives a killed run would keep its folder."""
    while _TAKEN:
        with suppress(OSError):
            os.close(_TAKEN.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """A claim on a folder, from `take` to `release`.

    Args:
        folder: that no other process is to write to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None
        self._process = 0

    def take(self) -> str | None:
        """Claim the folder.

        Returns:
            None, or who holds it: process, machine and start.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o666)
            if self._is_held(descriptor):
                holder = _read(descriptor)
                os.close(descriptor)
                return _describe(holder)
            if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                break
            os.close(descriptor)  # the holder has just removed it
        start = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        content = {"process": os.getpid(), "machine": socket.gethostname(), "start": start}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)
        self._descriptor, self._process = descriptor, os.getpid()
        _TAKEN.add(descriptor)
        return None

    def release(self) -> None:
        """Give the folder up; a second call does nothing, nor does one in a fork of the holder."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._process == os.getpid():
            _TAKEN.discard(descriptor)
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)

    def _is_held(self, descriptor: int) -> bool:
        if has_locks(descriptor):
            return not lock(descriptor, wait=False)
        holder = _read(descriptor)
        if not holder:
            return False
        return holder.get("machine") != socket.gethostname() or _is_alive(holder.get("process"))


def _read(descriptor: int) -> dict[str, Any]:
    with suppress(ValueError):
        content = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(content, dict):
            return content
    return {}


def _describe(holder: dict[str, Any]) -> str:
    process, machine, start = (str(holder.get(key, "unknown")) for key in ("process", "machine", "start"))
    return f"process {process} on {machine}, which began {start}"


def _is_alive(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, TypeError, OverflowError):
        return True
    return True
