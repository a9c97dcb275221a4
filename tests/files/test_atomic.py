import errno
import os
import tempfile
from pathlib import Path

import pytest

from llada.files.atomic import build_folder, replace_folder, replacing, write_bytes


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_built_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "content").write_text("x")

    build_folder(tmp_path / "new", build)
    build_folder(tmp_path / "new", build)
    assert len(calls) == 1
    assert os.listdir(tmp_path) == ["new"]
    assert (tmp_path / "new" / "content").read_text() == "x"


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        build_folder(tmp_path / "new", build)
    assert os.listdir(tmp_path) == []


def test_the_first_of_two_builders_wins(tmp_path):
    def build_while_another_finishes(folder):
        (folder / "content").write_text("second")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "content").write_text("first")

    build_folder(tmp_path / "new", build_while_another_finishes)
    assert (tmp_path / "new" / "content").read_text() == "first"
    assert os.listdir(tmp_path) == ["new"]


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as file:
            file.write(b"new")
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        write_half()
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"----new")
        file.seek(0)
        file.write(b"very")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"verynew"
    assert os.listdir(tmp_path) == ["a"]


MAKERS = {
    "file": lambda place: write_bytes(place, b"new"),
    "folder built once": lambda place: build_folder(place, lambda folder: None),
    "folder replaced": lambda place: replace_folder(place, lambda folder: None),
}


@pytest.mark.parametrize("make", MAKERS)
def test_a_place_that_mustnt_be_written_is_named_and_not_the_temporary_name(make, tmp_path, monkeypatch):
    def closed(name, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    place = tmp_path / "out"
    monkeypatch.setattr(os, "open", closed)
    monkeypatch.setattr(Path, "mkdir", lambda self, *_, exist_ok=False, **__: None if exist_ok else closed(self))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix, dir: closed(f"{dir}/{prefix}x"))
    with pytest.raises(PermissionError) as error:
        MAKERS[make](place)
    monkeypatch.undo()
    assert error.value.filename == str(place)
    assert list(tmp_path.iterdir()) == []
