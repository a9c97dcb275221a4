"""Temporary names: nobody else's, and gone when their process has died."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llada.files import temporary
from llada.files.atomic import build_folder, replacing, swap_folder, write_bytes
from llada.files.temporary import SUFFIX, claimed_folder, exchange, remove_leftovers

DIES = """
import os, signal
from pathlib import Path
from llada.files.atomic import build_folder, replacing
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def build(folder):
    (folder / "part").write_text("half")
    die()
if {folder}:
    build_folder(Path("made"), build)
with replacing(Path("model.ckpt")) as file:
    file.write(b"half")
    file.flush()
    die()
"""


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path, folder: bool) -> None:
    write_bytes(tmp_path / "model.ckpt", b"old")
    code = DIES.format(folder=folder)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / "model.ckpt").read_bytes() == b"old"
    assert [name for name in names(tmp_path) if name.endswith(SUFFIX)]
    remove_leftovers(tmp_path, "*.other")
    assert len(names(tmp_path)) == 2
    if folder:
        build_folder(tmp_path / "made", lambda made: (made / "whole").write_text("x"))
        assert names(tmp_path) == ["made", "model.ckpt"]
    else:
        write_bytes(tmp_path / "model.ckpt", b"new")
        assert names(tmp_path) == ["model.ckpt"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.ckpt") as file, claimed_folder(tmp_path / "b"):
        file.write(b"new")
        before = names(tmp_path)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == before
    assert names(tmp_path) == ["a.ckpt"]


def test_processes_with_one_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers, whose first process has the number 1 in each."""
    monkeypatch.setattr(os, "getpid", lambda: 1)

    def second(folder: Path) -> None:
        (folder / "content").write_text("second")

    def first(folder: Path) -> None:
        (folder / "a").write_text("first")
        build_folder(tmp_path / "made", second)
        assert names(folder) == ["a"]

    build_folder(tmp_path / "made", first)
    assert names(tmp_path / "made") == ["content"]
    assert names(tmp_path) == ["made"]


def test_a_file_gets_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_long_name_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("a" * 250), b"x")
    assert names(tmp_path) == ["a" * 250]


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("before", ["folder", "file", "nothing"])
def test_folders_are_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr("llada.files.atomic.exchange", lambda *_: False)
    target = tmp_path / "model.ckpt"
    if before == "folder":
        target.mkdir()
        (target / "old").write_text("old")
    elif before == "file":
        target.write_text("old")
    with claimed_folder(target) as new:
        (new / "shard").write_text("new")
        swap_folder(new, target)
    assert names(target) == ["shard"]
    assert names(tmp_path) == ["model.ckpt"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux exchanges names")
def test_names_are_exchanged_at_once(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["b"], ["a"])
    assert not exchange(tmp_path / "a", tmp_path / "absent")


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".a.0123456789abcdef{SUFFIX}"
    left.write_bytes(b"half")
    monkeypatch.setattr(temporary, "fcntl", None)
    write_bytes(tmp_path / "a", b"x")
    assert left.exists()
    monkeypatch.undo()
    write_bytes(tmp_path / "a", b"x")
    assert not left.exists()
