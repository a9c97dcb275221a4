"""What is logged is what it says: the loss of the step, its gradient, its tokens; each loader under its own name."""

import csv
import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.module import DiffusionLM
from llada.objectives import NELBO, ObjectiveOutput, PerScored
from llada.process import MaskingProcess
from llada.samplers import low_confidence

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


class Recording(DiffusionLM):
    """Notes what the objective has said of each micro-batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.outputs = getattr(self, "outputs", [])
        objective, outputs = self.objective, self.outputs
        self.objective = lambda *a, **k: outputs.append(objective(*a, **k)) or outputs[-1]
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self.objective = objective


def build(cls: type[DiffusionLM] = DiffusionLM, **parts: Any) -> Any:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    defaults: dict[str, Any] = {
        "objective": NELBO(normaliser=PerScored()),
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
    }
    return cls(backbone, MaskingProcess(MASK), **{**defaults, **parts})


def rows(number: int, seed: int = 1) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(MASK, (number, LENGTH), generator=generator)
    real = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (number, 1), generator=generator)
    return DataLoader([{"tokens": t, "attention_mask": m} for t, m in zip(tokens, real, strict=True)], batch_size=2)


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": CSVLogger(folder, name=None, version=""),
    }
    return Trainer(**{**defaults, **options})


def logged(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_the_logged_numbers_are_those_of_the_step(tmp_path: Path) -> None:
    """Seven micro-batches in windows of three: the last step has one."""
    model, data, norms = build(Recording), rows(14), []

    class Norm(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            norms.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))

    trainer(
        tmp_path, max_epochs=1, accumulate_grad_batches=3, gradient_clip_val=0.01, callbacks=[Norm()]
    ).fit(model, data)  # fmt: skip
    steps: list[list[ObjectiveOutput]] = [model.outputs[:3], model.outputs[3:6], model.outputs[6:]]
    found = [row for row in logged(tmp_path) if "train/loss" in row]
    assert [row["step"] for row in found] == [0, 1, 2]
    real = [int(batch["attention_mask"].sum()) for batch in data]
    seen = [sum(real[:3]), sum(real[:6]), sum(real)]
    for row, step, norm, tokens in zip(found, steps, norms, seen, strict=True):
        loss = sum(float(o.numerator) for o in step) / sum(float(o.denominator) for o in step)
        share = sum(int(o.num_scored.sum()) for o in step) / sum(int(o.num_tokens.sum()) for o in step)
        assert row["train/loss"] == pytest.approx(loss, rel=1e-5)
        assert row["train/masked_share"] == pytest.approx(share, rel=1e-5)
        assert row["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert row["train/tokens_seen"] == tokens
    assert min(norms) > 0.01  # clipping would have shown


def test_only_the_steps_that_are_to_be_logged_are_logged(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    class Counting(DiffusionLM):
        def log(self, name: str, *arguments: Any, **options: Any) -> None:
            calls.append((name, self.trainer.global_step))
            super().log(name, *arguments, **options)

    model = build(Counting)
    trainer(tmp_path, max_steps=7, log_every_n_steps=3).fit(model, rows(40))
    assert [step for name, step in calls if name == "train/loss"] == [2, 5, 6]
    calls.clear()
    stopping = EarlyStopping("train/loss", patience=99)
    trainer(tmp_path / "monitored", max_steps=4, log_every_n_steps=3, callbacks=[stopping]).fit(model, rows(40))
    assert [step for name, step in calls if name == "train/loss"] == [0, 1, 2, 3]


def test_tokens_are_counted_over_an_interruption(tmp_path: Path) -> None:
    data = rows(12)
    total = sum(int(batch["attention_mask"].sum()) for batch in data)
    first = trainer(tmp_path / "first", max_epochs=1)
    first.fit(build(), data)
    first.save_checkpoint(tmp_path / "one.ckpt")
    model = build()
    trainer(tmp_path / "second", max_epochs=2).fit(model, data, ckpt_path=tmp_path / "one.ckpt")
    assert logged(tmp_path / "second")[-1]["train/tokens_seen"] == 2 * total
    trainer(tmp_path / "third", max_epochs=1).fit(model, data)  # a run of its own
    assert logged(tmp_path / "third")[-1]["train/tokens_seen"] == total


def test_loggers_learn_of_all_parts(tmp_path: Path) -> None:
    model = build(sampler=low_confidence(7), seed=5)
    trainer(tmp_path, max_steps=1).fit(model, rows(4))
    found = yaml.safe_load((tmp_path / "hparams.yaml").read_text(encoding="utf-8"))
    assert found["backbone"] == "llada.BidirectionalTransformer"
    assert found["backbone.width"] == 16
    assert found["optimizer"] == "torch.optim.AdamW"
    assert found["optimizer.lr"] == 1e-2
    assert found["objective.normaliser"] == "llada.objectives.PerScored"
    assert found["sampler.amount.steps"] == 7
    assert found["seed"] == 5


class Noting(DiffusionLM):
    """Does what most Lightning modules do first."""

    def __init__(self, backbone: BidirectionalTransformer, process: MaskingProcess, rate: float = 0.5, **kwargs: Any):
        super().__init__(backbone, process, **kwargs)
        self.rate = rate
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`")
def test_saving_hyperparameters_spoils_no_checkpoint(tmp_path: Path) -> None:
    model = build(Noting, rate=0.25)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, rows(4))
    run.save_checkpoint(tmp_path / "model.ckpt")
    stored = read_checkpoint(tmp_path / "model.ckpt")["hyper_parameters"]
    assert stored["rate"] == 0.25
    assert stored["optimizer"]["init_args"] == {"lr": 1e-2}
    again = Noting.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.rate == 0.25
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    trainer(tmp_path / "on", max_steps=2).fit(again, rows(8), ckpt_path=tmp_path / "model.ckpt")


def test_objects_of_others_spoil_no_checkpoint(tmp_path: Path) -> None:
    class State(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"best": np.float64(0.5), "counts": np.arange(3), "folder": tmp_path, "function": print, "kept": [1]}

    class Adding(DiffusionLM):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = {"when": datetime.date(2026, 1, 1), "stage": RunningStage.TRAINING, "pair": (1, 2)}

    averaging = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1)  # its scheduler's state has a function
    model = build(Adding)
    run = trainer(tmp_path, max_epochs=3, callbacks=[State(), averaging], logger=False)
    run.fit(model, rows(4))
    with pytest.warns(UserWarning, match=r"without .*function \(builtin.*mine\.when \(date\)"):
        run.save_checkpoint(tmp_path / "model.ckpt")
    stored = read_checkpoint(tmp_path / "model.ckpt")
    (state,) = [state for state in stored["callbacks"].values() if "kept" in state]
    assert (state["best"], state["counts"].tolist(), state["folder"]) == (0.5, [0, 1, 2], str(tmp_path))
    assert "function" not in state
    assert stored["mine"] == {"stage": "train", "pair": (1, 2)}


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize(
    ("combine", "names"),
    [
        (lambda a, b: [a, b], ("dataloader_idx_0", "dataloader_idx_1")),
        (lambda a, b: {"owt": a, "lm1b": b}, ("owt", "lm1b")),
        (lambda a, b: CombinedLoader({"x": [a], "y": b}, "sequential"), ("x/0", "y")),
    ],
)
def test_every_loader_has_its_own_result(tmp_path: Path, stage: str, combine: Any, names: Any) -> None:
    model, loaders = build(), (rows(6, seed=2), rows(4, seed=3))
    run = trainer(tmp_path, logger=False)
    evaluate = run.validate if stage == "val" else run.test
    alone = [evaluate(model, loader, verbose=False)[0] for loader in loaders]
    together = evaluate(model, combine(*loaders), verbose=False)[0]
    assert alone[0][f"{stage}/nll"] != alone[1][f"{stage}/nll"]
    expected = {
        f"{key}/{name}": value for name, results in zip(names, alone, strict=True) for key, value in results.items()
    }
    assert together == expected


def test_a_loader_after_another_run_is_not_taken_for_the_first_ones(tmp_path: Path) -> None:
    model, run = build(), trainer(tmp_path, max_epochs=1, logger=False)
    run.fit(model, rows(4), rows(4, seed=2))
    assert "val/nll" in run.callback_metrics
    pair = run.validate(model, [rows(4, seed=2), rows(4, seed=3)], verbose=False)[0]
    assert {"val/nll/dataloader_idx_0", "val/nll/dataloader_idx_1"} <= pair.keys()
    assert "val/nll" not in pair


def test_a_checkpoint_can_be_chosen_by_one_of_several_loaders(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, monitor="val/nll/owt", filename="best")
    run = trainer(tmp_path, max_epochs=1, callbacks=[saving], enable_checkpointing=True, logger=False)
    run.fit(build(), rows(4), {"owt": rows(4, seed=2), "lm1b": rows(4, seed=3)})
    assert float(saving.best_model_score) == pytest.approx(float(run.callback_metrics["val/nll/owt"]))
