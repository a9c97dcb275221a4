"""Runs that a cluster ends or puts back into its queue: on several ranks, and under Slurm."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.data.loader import training_loader
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import SaveAtEnd
from tests.ranks import run_two_ranks
from tests.scripts.train_sharded import VOCAB, Rows


def test_a_signal_to_one_rank_ends_both_behind_the_step_and_leaves_no_trace(tmp_path: Path) -> None:
    run_two_ranks("train_interrupted.py", tmp_path, "asked", expected=128 + signal.SIGTERM)
    assert read_checkpoint(tmp_path / "run/model.ckpt")["global_step"] == 3
    assert os.listdir(tmp_path / "run") == ["model.ckpt"]
    run_two_ranks("train_interrupted.py", tmp_path, "resumed")
    wholes, resumed = (
        [torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2)]
        for name in ("whole", "resumed")
    )
    assert all(torch.equal(wholes[0], other) for other in (wholes[1], *resumed))


class Requeued(DiffusionLM):
    """Gets Slurm's signal in the middle of a step, when the optimiser has changed the weights."""

    at: int | None = None

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.trainer.global_step == self.at:
            for _ in range(2):  # once more while the first one waits
                os.kill(os.getpid(), signal.SIGUSR1)


def fit(folder: Path, at: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model = Requeued(
        BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2), MaskingProcess(mask_token_id=VOCAB - 1)
    )
    model.at = at
    Trainer(
        accelerator="cpu", devices=1, max_steps=7, accumulate_grad_batches=2, logger=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder / "run", filename="model", enable_version_counter=False), SaveAtEnd()],
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(model, training_loader(Rows(), 2, 0, 0))  # fmt: skip
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_slurms_requeue_signal_waits_for_the_end_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    names = {"JOB_ID": "7", "NTASKS": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    whole = fit(tmp_path / "whole")
    before = signal.getsignal(signal.SIGUSR1)
    assert torch.equal(fit(tmp_path / "job", at=2), whole)  # the run goes on until it is ended
    assert signal.getsignal(signal.SIGUSR1) == before
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "requeue 7\n"
    assert read_checkpoint(tmp_path / "job/hpc_ckpt_1.ckpt")["global_step"] == 3
    assert torch.equal(fit(tmp_path / "job"), whole)  # Lightning goes on from there by itself
