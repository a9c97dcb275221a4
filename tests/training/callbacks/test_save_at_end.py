"""A run is saved when it ends, whatever ends it, at a step that can be gone on from."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA

from llada.checkpoints.checkpoint import read_checkpoint
from llada.files.folder_lock import NAME, FolderLock
from llada.training.callbacks import EMAWeightAveraging, SaveAtEnd
from llada.training.callbacks.interrupts import Interrupted
from tests.training.test_resume_point import Kill, train

VALIDATED = {"val_check_interval": 6, "check_val_every_n_epoch": None}


def model_file(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="model", enable_version_counter=False, **options)


class Signal(Callback):
    """Sends this process a signal in a micro-batch, or in the validation after it."""

    def __init__(self, number: int, batch: int, times: int = 1, validation: bool = False) -> None:
        self.number, self.left, self.times, self.validation = number, batch, times, validation

    def on_train_batch_start(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.validation:
            self.send()

    def on_validation_batch_start(self, *_: Any) -> None:
        if self.left <= 0 and self.validation:
            self.send()

    def send(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("steps", [1, 5])
def test_the_last_step_is_saved_although_no_validation_came(tmp_path: Path, steps: int) -> None:
    saving = SaveAtEnd()
    train(tmp_path, model_file(tmp_path), saving, max_steps=steps, **VALIDATED)
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == steps
    assert files(tmp_path) == ["model.ckpt"]
    ending = saving.ending
    assert (ending.path, ending.step, ending.reason) == (tmp_path / "model.ckpt", steps, "")
    assert str(ending).splitlines()[-1] == f"next: llada sample {tmp_path}/model.ckpt"
    assert (ending.best is None) == (steps == 1)
    if steps == 5:
        assert ending.best[1] == 3
        assert f"; best val/nll {ending.best[0]:.4f} at step 3" in str(ending)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ({"filename": "{step}", "every_n_train_steps": 2, "save_top_k": -1}, ["last.ckpt", "step=2.ckpt"]),
        ({"filename": "best", "monitor": "val/nll"}, ["best.ckpt", "last.ckpt"]),
        ({"filename": "model", "save_last": True}, ["last.ckpt", "model.ckpt"]),
        ({"filename": "model", "save_weights_only": True}, ["last.ckpt", "model.ckpt"]),
    ],
)
def test_the_file_of_the_last_step(tmp_path: Path, kept: dict[str, Any], expected: list[str]) -> None:
    saving = SaveAtEnd()
    train(
        tmp_path,
        ModelCheckpoint(tmp_path, **kept),
        saving,
        max_steps=3,
        window=1,
        **(VALIDATED | {"val_check_interval": 2}),
    )
    assert files(tmp_path) == expected
    assert read_checkpoint(saving.ending.path)["global_step"] == 3


def test_the_file_of_another_run_is_left_alone_where_versions_are_counted(tmp_path: Path) -> None:
    for expected in ("model.ckpt", "model-v1.ckpt"):
        saving = SaveAtEnd()
        train(tmp_path, ModelCheckpoint(tmp_path, filename="model"), saving, max_steps=1)
        assert saving.ending.path == tmp_path / expected
    train(tmp_path, ModelCheckpoint(tmp_path, filename="model"), SaveAtEnd(), max_steps=2, resume=saving.ending.path)
    assert files(tmp_path) == ["model-v1.ckpt", "model.ckpt"]
    assert read_checkpoint(tmp_path / "model-v1.ckpt")["global_step"] == 2


@pytest.mark.parametrize(
    ("number", "code", "options", "step"),
    [
        (signal.SIGTERM, 143, {"batch": 5}, 3),  # the third step takes the micro-batches 5 and 6
        (signal.SIGINT, 130, {"batch": 1}, 1),
        (signal.SIGTERM, 143, {"batch": 6, "validation": True}, 3),
    ],
)
def test_a_signal_ends_the_run_at_a_step(
    tmp_path: Path,
    number: int,
    code: int,
    options: dict[str, Any],
    step: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    handlers = {watched: signal.getsignal(watched) for watched in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    saving = SaveAtEnd()
    callbacks = [EMAWeightAveraging(0.5), Signal(number, **options), model_file(tmp_path), saving]
    with pytest.raises(Interrupted) as ended:
        train(tmp_path, *callbacks, **VALIDATED)
    assert ended.value.code == code
    told = "SIGTERM: the run ends after this validation; once more ends it now, saved too\n"
    assert capfd.readouterr().err.count(told) == int("validation" in options)
    assert (saving.ending.step, read_checkpoint(tmp_path / "model.ckpt")["global_step"]) == (step, step)
    assert files(tmp_path) == ["model.ckpt"]
    assert {watched: signal.getsignal(watched) for watched in handlers} == handlers
    again = train(tmp_path, EMAWeightAveraging(0.5), resume=tmp_path / "model.ckpt", max_steps=5)[1].state_dict()
    whole = train(tmp_path, EMAWeightAveraging(0.5), max_steps=5)[1].state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    saving = SaveAtEnd()
    with pytest.raises(Interrupted):
        train(tmp_path, Signal(signal.SIGTERM, 5, times=2), model_file(tmp_path), saving)
    assert (saving.ending.step, read_checkpoint(tmp_path / "model.ckpt")["global_step"]) == (2, 2)


def test_an_error_saves_the_last_finished_step(tmp_path: Path) -> None:
    saving = SaveAtEnd()
    train(tmp_path, Kill(8), model_file(tmp_path), saving)
    assert (saving.ending.step, read_checkpoint(tmp_path / "model.ckpt")["global_step"]) == (4, 4)
    assert not (tmp_path / NAME).exists()


class Poison(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            next(pl_module.parameters()).data[0] = torch.nan
            raise ValueError("something else")


class FailsInStep(Checkpoint):
    """Behind `SaveAtEnd` in the list of callbacks, so that a step has begun when it fails."""

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            raise ValueError("in a step")


class FailsInValidation(Callback):
    def on_validation_batch_start(self, *_: Any) -> None:
        raise ValueError("in a validation")


@pytest.mark.parametrize(
    ("callbacks", "reason"),
    [
        ([Poison()], "its weights are no longer finite"),
        ([FailsInStep()], "it ended within an optimiser step"),
        ([LightningEMA(decay=0.5), FailsInValidation()], "it ended while averaged weights were validated"),
    ],
)
def test_what_is_unsafe_is_not_saved(tmp_path: Path, callbacks: list[Callback], reason: str) -> None:
    saving = SaveAtEnd()
    with pytest.raises(ValueError, match=r"something else|in a step|in a validation"):
        train(tmp_path, model_file(tmp_path), saving, *callbacks, **VALIDATED)
    assert saving.ending.path is None
    assert str(saving.ending).startswith(f"nothing was saved at step {saving.ending.step}: {reason}")
    assert files(tmp_path) == []


def test_two_runs_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    other = FolderLock(tmp_path)
    assert other.take() is None
    with pytest.raises(ValueError, match=rf"being written to by another run \(process {os.getpid()} on .*--share_fold"):
        train(tmp_path, model_file(tmp_path), SaveAtEnd(), max_steps=1)
    train(tmp_path, model_file(tmp_path), SaveAtEnd(share_folder=True), max_steps=1)
    assert files(tmp_path) == [NAME, "model.ckpt"]
    other.release()


def test_the_best_value_outlives_a_resume(tmp_path: Path) -> None:
    saving = SaveAtEnd()
    train(tmp_path, model_file(tmp_path), saving, max_steps=4, **VALIDATED)
    again = SaveAtEnd()
    train(tmp_path, model_file(tmp_path), again, max_steps=5, resume=tmp_path / "model.ckpt", **VALIDATED)
    assert again.ending.best == saving.ending.best
    done = SaveAtEnd()
    train(tmp_path, model_file(tmp_path), done, max_steps=5, resume=tmp_path / "model.ckpt", **VALIDATED)
    assert done.ending is None  # there was nothing left to train
