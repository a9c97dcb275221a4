"""``llada fit`` loses nothing that was trained, and goes on from what can be read."""

import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from llada.checkpoints import known
from llada.checkpoints.checkpoint import read_checkpoint
from llada.cli.earlier_run import _replaced
from llada.files.folder_lock import FolderLock
from llada.module import DiffusionLM
from tests.cli.conftest import Command, Trained


@pytest.fixture
def options(trained: Trained, tmp_path: Path) -> list[Any]:
    """A short run into an empty folder, with the data that is there."""
    saving = f'[{{"class_path": "ModelCheckpoint", "init_args": {{"dirpath": "{tmp_path}/run", "filename": "model", '
    saving += '"enable_version_counter": false}}]'
    short = [f"--trainer.callbacks={saving}", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=-1"]
    return ["--config", trained.config, f"--data.cache_folder={trained.folder}/cache", *short, "--trainer.max_steps=3"]


def stored_step(path: Path) -> int:
    return int(read_checkpoint(path)["global_step"])


def test_a_run_is_saved_interrupted_and_gone_on_with(
    llada: Command, options: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, step = tmp_path / "run/model.ckpt", DiffusionLM.training_step

    def stop(self: DiffusionLM, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionLM, "training_step", stop)
        run = llada("fit", *options, "--ckpt_path=last")
    assert run.code == 143
    assert stored_step(model) == 2
    assert run.out.splitlines()[-3:] == [
        "saved run/model.ckpt at step 2",
        "next: llada sample run/model.ckpt",
        "to go on, run the same command with --ckpt_path last",
    ]
    run = llada("fit", *options, "--ckpt_path=last")
    assert run.code == 0, run.err
    assert stored_step(model) == 3
    assert os.listdir(tmp_path / "run") == ["model.ckpt"]

    newer = tmp_path / "run/last.ckpt"
    newer.write_bytes(model.read_bytes()[:3000])
    with pytest.warns(UserWarning, match=r"going on from .*model\.ckpt, since .*last\.ckpt is damaged"):
        run = llada("fit", *options, "--ckpt_path=last", "--trainer.max_steps=4")
    assert run.code == 0, run.err
    assert stored_step(model) == 4
    model.write_bytes(b"")
    for command in ("fit", "validate"):
        run = llada(command, *options, "--ckpt_path=last")
        assert run.code == 1
        assert "there is no checkpoint to go on from" in run.err
        assert "model.ckpt is damaged" in run.err


def test_a_finished_model_is_not_replaced(llada: Command, options: list[Any], tmp_path: Path) -> None:
    short = [*options, "--trainer.max_steps=1"]
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        run = llada("fit", *short, "--trainer.enable_model_summary=true", "--trainer.limit_val_batches=1")
    assert (run.code, run.err) == (0, "")
    assert not [str(each.message) for each in noticed if re.search("LeafSpec|not empty", str(each.message))]
    model_line, training_line, data_line = run.out.splitlines()[:3]
    assert re.fullmatch(r"model    BidirectionalTransformer, [\d,]+ parameters, 0\.\d MB", model_line)
    assert training_line == "training NELBO, UnmaskingSampler; cpu, 32-true"
    assert data_line == "data     up to 512 tokens per step, 1 steps, 512 in all"
    model = tmp_path / "run/model.ckpt"
    before = model.read_bytes()
    run = llada("fit", *short)
    assert (run.code, run.out) == (1, "")
    assert run.err.endswith(
        f"llada fit: {model} is the model of an earlier run, which this one would replace; go on with it by --ckpt_"
        "path last, give this run another folder (--run_folder), or say --overwrite\n"
    )
    assert model.read_bytes() == before
    assert llada("fit", *short, "--overwrite", "--model.seed=5").code == 0
    assert model.read_bytes() != before
    run = llada("fit", *short, "--trainer.callbacks.enable_version_counter=true")
    assert run.code == 0, run.err
    assert sorted(os.listdir(tmp_path / "run")) == ["model-v1.ckpt", "model.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"filename": "model"}, ["model"]),
        ({"filename": "other"}, []),
        ({"filename": "other", "save_last": True}, ["last"]),
        ({"filename": "{step}"}, ["last", "model", "step=3"]),
        ({}, ["last", "model", "step=3"]),
        ({"filename": "model", "enable_version_counter": True}, []),
        ({"filename": "model", "dirpath": None}, []),
        ({"filename": "model", "dirpath": "nowhere"}, []),
    ],
)
def test_what_a_run_would_replace(tmp_path: Path, arguments: dict[str, Any], found: list[str]) -> None:
    for name in ("model", "last", "step=3"):
        (tmp_path / f"{name}.ckpt").touch()
    callback = ModelCheckpoint(**{"dirpath": tmp_path, "enable_version_counter": False, **arguments})
    assert [path.stem for path in _replaced(callback)] == found


def test_what_is_refused_before_anything_is_trained(llada: Command, options: list[Any], tmp_path: Path) -> None:
    other = FolderLock(tmp_path / "run")
    other.take()
    run = llada("fit", *options)
    assert run.code == 1
    assert "is being written to by another run" in run.err
    other.release()
    run = llada("fit", *options, "--model.backbone.max_length=15")
    assert run.code == 1
    assert "rows of up to 16 tokens, but the backbone takes 15" in run.err
    run = llada("validate", *options, "--ckpt_path=last")
    assert run.code == 1
    assert f"there is no checkpoint in {tmp_path}/run; name one by --ckpt_path" in run.err
    run = llada("fit", *options, "--weights_only=false")
    assert run.code == 1
    assert "checkpoints are never unpickled" in run.err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_addresses_of_checkpoints(llada: Command, options: list[Any], trained: Trained) -> None:
    run = llada("validate", *options, f"--ckpt_path=file://{trained.checkpoint}", "--trainer.limit_val_batches=1")
    assert run.code == 0, run.err
    assert "val/nll" in run.out
    run = llada("validate", *options, "--ckpt_path=http://127.0.0.1:9/model.ckpt")
    assert run.code == 1
    assert "there is no checkpoint http://127.0.0.1:9/model.ckpt" in run.err


def test_packages_are_trusted_by_name(
    llada: Command, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed/cli_parts").mkdir(parents=True)
    source = "from llada.samplers import UnmaskingSampler\nclass Mine(UnmaskingSampler): pass\n"
    (tmp_path / "installed/cli_parts/__init__.py").write_text(source)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.setattr(known, "_TRUSTED", set())
    stored = read_checkpoint(trained.checkpoint)
    stored["llada"]["parts"]["sampler"]["class_path"] = "cli_parts.Mine"
    torch.save(stored, "mine.ckpt")
    commands = [["sample", "mine.ckpt", "--num_new_tokens=1"], ["convert", "mine.ckpt", "copied.ckpt"]]
    for command in commands:
        run = llada(*command)
        assert run.code == 1
        assert "the class cli_parts.Mine isn't known" in run.err
        assert "--trust cli_parts" in run.err
    for command in commands:
        run = llada(*command, "--trust", "cli_parts")
        assert run.code == 0, run.err
