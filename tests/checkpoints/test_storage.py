"""Checkpoints get to the disk whole, and come back as data, wherever they are."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from llada.checkpoints.checkpoint import PARTS_KEY, read_checkpoint, stored_parts
from llada.checkpoints.storage import VERSION_KEY, AtomicCheckpointIO, local_path, read_anywhere
from llada.files.temporary import SUFFIX
from tests.checkpoints.test_rebuild import MODELS, rows


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    model = MODELS["diffusion"]()
    return {"state_dict": model.state_dict(), PARTS_KEY: stored_parts(model), VERSION_KEY: "2.6.0"}


def test_a_checkpoint_never_goes_through_the_temporary_folder(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "runs/deep/model.ckpt")
    assert os.listdir(tmp_path / "runs/deep") == ["model.ckpt"]
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "runs/deep/model.ckpt")
    assert all(torch.equal(loaded["state_dict"][name], tensor) for name, tensor in content["state_dict"].items())


def test_a_write_that_fails_leaves_the_old_checkpoint(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ckpt"
    AtomicCheckpointIO().save_checkpoint(content, path)
    before = path.read_bytes()

    def full(_: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llada.checkpoints.storage.torch.save", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(content, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.ckpt"]


def test_what_killed_runs_left_is_removed_whatever_its_name(content: dict[str, Any], tmp_path: Path) -> None:
    stale = [f".epoch=0-step=9.ckpt.{'0' * 16}{SUFFIX}", f".model.ckpt.{'1' * 16}{SUFFIX}"]
    others = ["notes.tmp", f".text.tokens.{'2' * 16}{SUFFIX}", ".model.ckpt.tmp"]
    for name in (*stale, *others):
        (tmp_path / name).write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "model.ckpt")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "model.ckpt"])


def test_the_trainer_takes_it_as_a_plugin(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="model", every_n_train_steps=1, enable_version_counter=False)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "callbacks": [saving], "plugins": [AtomicCheckpointIO()]}
    Trainer(max_steps=1, **options).fit(MODELS["diffusion"](), rows())
    run = Trainer(max_steps=2, **options)
    run.fit(MODELS["diffusion"](), rows(), ckpt_path=f"file://{tmp_path}/model.ckpt")
    assert run.global_step == 2
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == 2
    assert os.listdir(tmp_path) == ["model.ckpt"]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address under which the files of a folder are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_addresses_are_read_as_data(content: dict[str, Any], tmp_path: Path, served: str) -> None:
    sprung = tmp_path / "sprung"
    torch.save(content, tmp_path / "model.ckpt")
    torch.save({**content, "extra": Touch(sprung)}, tmp_path / "attack.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for address in (served, f"file://{tmp_path}", tmp_path):
        for weights_only in (None, False):
            assert AtomicCheckpointIO().load_checkpoint(f"{address}/model.ckpt", weights_only=weights_only)[PARTS_KEY]
            with pytest.raises(ValueError, match=r"attack\.ckpt is damaged, or holds pickled Python objects"):
                AtomicCheckpointIO().load_checkpoint(f"{address}/attack.ckpt", weights_only=weights_only)
        with pytest.raises(ValueError, match=r"foreign\.ckpt is not a checkpoint of this library"):
            read_anywhere(f"{address}/foreign.ckpt")
        with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*absent\.ckpt"):
            read_anywhere(f"{address}/absent.ckpt")
    assert not sprung.exists()
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint nosuch://a/b\.ckpt"):
        read_anywhere("nosuch://a/b.ckpt")


def test_paths_and_addresses() -> None:
    assert local_path("runs/a=1.ckpt") == Path("runs/a=1.ckpt")
    assert local_path("file:///runs/a%20b.ckpt") == Path("/runs/a b.ckpt")
    assert local_path("s3://runs/a.ckpt") is None
