"""A folder is replaced as a whole, and only when the new one is complete."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from tests.processes import run_python


def model(fill: float = 1.0) -> DiffusionLM:
    made = DiffusionLM(BidirectionalTransformer(11, width=8, num_layers=2, num_heads=2), MaskingProcess(10))
    torch.nn.init.constant_(made.backbone.embedding.weight, fill)
    return made


def stored(folder: Path) -> float:
    return DiffusionLM.from_pretrained(folder).backbone.embedding.weight[0, 0].item()


class Words:
    def __init__(self, *names: str) -> None:
        self.names = names

    def save(self, folder: Path) -> None:
        for name in self.names:
            (Path(folder) / name).write_text("new")


@pytest.mark.parametrize("step", ["llada.checkpoints.released.shards.save_file", "llada.files.atomic._swap"])
def test_a_failing_save_leaves_the_old_folder(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(1.0).save_pretrained(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(step, broken)
    with pytest.raises(OSError, match="disk full"):
        model(2.0).save_pretrained(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    model(2.0).save_pretrained(tmp_path / "out")
    assert stored(tmp_path / "out") == 2.0


def test_a_rename_that_fails_halfway_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(1.0).save_pretrained(tmp_path / "out")
    replace, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("busy")
        replace(source, target)

    monkeypatch.setattr("llada.files.atomic.exchange", lambda *_: False)  # as where names can't be exchanged at once
    monkeypatch.setattr("llada.files.atomic.os.replace", second_fails)
    with pytest.raises(OSError, match="busy"):
        model(2.0).save_pretrained(tmp_path / "out")
    assert stored(tmp_path / "out") == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
import llada.checkpoints.released.shards as shards
from tests.checkpoints.test_folder import model
real, written = shards.save_file, []
def deadly(*a, **k):
    real(*a, **k)
    written.append(1)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
shards.save_file = deadly
model(2.0).save_pretrained(sys.argv[1], max_shard_size=600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_save_leaves_the_old_folder(tmp_path: Path) -> None:
    model(1.0).save_pretrained(tmp_path / "out", max_shard_size=600)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run_python("-c", KILLED, tmp_path / "out").returncode == -9
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_old_shards_go_and_everything_else_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    model(1.0).save_pretrained(folder, max_shard_size=600, tokenizer=Words("tokenizer.json", "vocab.json"))
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    (folder / "README.md").write_text("mine")
    (folder / "adapter_model.safetensors").write_bytes(b"mine")
    (folder / "runs").mkdir()
    (folder / "runs/events").write_text("mine")
    model(2.0).save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    kept = {"README.md", "adapter_model.safetensors", "runs", "tokenizer.json", "vocab.json"}
    assert names == kept | {"config.json", "model.safetensors"}
    assert (folder / "runs/events").read_text() == (folder / "README.md").read_text() == "mine"
    model(3.0).save_pretrained(folder, tokenizer=Words("tokenizer.json"))
    assert (folder / "tokenizer.json").read_text() == "new"
    assert not (folder / "vocab.json").exists()  # of the old tokenizer
    assert stored(folder) == 3.0


def test_shards_of_unusual_names_go_too(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    model(1.0).save_pretrained(folder, max_shard_size=600)
    index = folder / "model.safetensors.index.json"
    first = sorted(folder.glob("model-*"))[0]
    index.write_text(index.read_text().replace(first.name, "part.safetensors"))
    first.rename(folder / "part.safetensors")
    assert stored(folder) == 1.0
    model(2.0).save_pretrained(folder)
    assert not (folder / "part.safetensors").exists()
    index.write_text("[]")  # a damaged index doesn't stand in the way
    model(3.0).save_pretrained(folder)
    assert stored(folder) == 3.0


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no hard links here")

    model(1.0).save_pretrained(tmp_path / "out")
    (tmp_path / "out/README.md").write_text("mine")
    monkeypatch.setattr("llada.files.atomic.os.link", refuse)
    model(2.0).save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/README.md").read_text() == "mine"


def test_what_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    model(1.0).save_pretrained(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    model(2.0).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stored(tmp_path / "real") == 2.0


def test_places_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        model().save_pretrained(tmp_path / "file")
    (tmp_path / "here/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/deeper")
    for place in (".", "..", tmp_path / "here"):
        with pytest.raises(ValueError, match="holds the working directory"):
            model().save_pretrained(place)
    model(4.0).save_pretrained("new/folder")
    assert stored(tmp_path / "here/deeper/new/folder") == 4.0
    shutil.rmtree(tmp_path / "here")
