"""Two runs in one folder are told apart, and a dead one blocks nobody."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llada.files import temporary
from llada.files.folder_lock import NAME, FolderLock

DIES = """
import os, signal
from pathlib import Path
from llada.files.folder_lock import FolderLock
assert FolderLock(Path(".")).take() is None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_holder_is_named_until_it_gives_up(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    assert first.take() is None
    assert second.take().startswith(f"process {os.getpid()} on {socket.gethostname()}, which began 20")
    first.release()
    first.release()
    assert not (tmp_path / "run" / NAME).exists()
    assert second.take() is None
    second.release()


def test_a_dead_holder_blocks_nobody(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", DIES], cwd=tmp_path, env=environment, check=False)
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / NAME).exists()
    lock = FolderLock(tmp_path)
    assert lock.take() is None
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork")
def test_a_worker_keeps_no_folder(tmp_path: Path) -> None:
    lock, (reader, writer) = FolderLock(tmp_path), os.pipe()
    assert lock.take() is None
    worker = os.fork()
    if worker == 0:
        lock.release()
        os.read(reader, 1)
        os._exit(0)
    os.close(lock._descriptor)  # as the system does when the holder is killed
    after = FolderLock(tmp_path)
    while after.take() is not None:  # until the worker has begun
        pass
    assert (tmp_path / NAME).exists()
    os.write(writer, b".")
    os.waitpid(worker, 0)
    after.release()


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"process": os.getpid(), "machine": socket.gethostname()}, True),
        ({"process": 2**22 + 1, "machine": socket.gethostname()}, False),
        ({"process": 2**22 + 1, "machine": "elsewhere"}, True),
        ("damaged", False),
    ],
)
def test_without_locks_the_content_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, held: bool
) -> None:
    monkeypatch.setattr(temporary, "fcntl", None)
    (tmp_path / NAME).write_text(content if isinstance(content, str) else json.dumps(content))
    lock = FolderLock(tmp_path)
    assert (lock.take() is not None) == held
    lock.release()
