"""The Trainer's options and the habits of its users: each is tried; docs/training.md has the table."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch import cli as lightning_cli
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import NELBO, PerScored
from llada.process import MaskingProcess
from llada.training.groups import learning_rate
from llada.training.lr_schedulers import ReduceOnPlateau
from llada.training.muon import MuonAdamW

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1
PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def build(lr: float = 1e-2, **parts: Any) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    objective = NELBO(normaliser=PerScored())
    return DiffusionLM(backbone, MaskingProcess(MASK), objective, optimizer=partial(torch.optim.AdamW, lr=lr), **parts)


def rows(number: int = 12) -> DataLoader[Any]:
    tokens = torch.randint(MASK, (number, LENGTH), generator=torch.Generator().manual_seed(1))
    return DataLoader([{"tokens": row} for row in tokens], batch_size=2)


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "logger": CSVLogger(folder, name=None, version=""),
    }
    return Trainer(**{**defaults, **options})


OPTIONS: dict[str, dict[str, Any]] = {
    "fast_dev_run": {"fast_dev_run": 2},
    "overfit_batches": {"overfit_batches": 2},
    "limit_train_batches": {"limit_train_batches": 2, "limit_val_batches": 1},
    "val_check_interval": {"val_check_interval": 2},
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 2},
    "accumulate_grad_batches": {"accumulate_grad_batches": 4},
    "gradient_clip_val": {"gradient_clip_val": 0.1},
    "gradient_clip_algorithm": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "max_time": {"max_time": "00:00:10:00"},
    "min_epochs": {"min_epochs": 1},
    "detect_anomaly": {"detect_anomaly": True},
    "profiler": {"profiler": "simple"},
    "deterministic": {"deterministic": True},
    "inference_mode": {"inference_mode": False},
    "num_sanity_val_steps": {"num_sanity_val_steps": 1},
    "reload_dataloaders_every_n_epochs": {"reload_dataloaders_every_n_epochs": 1},
    "precision": {"precision": "bf16-mixed"},
    "EMAWeightAveraging": {"callbacks": [EMAWeightAveraging(decay=0.9)]},
    "StochasticWeightAveraging": {"callbacks": [StochasticWeightAveraging(swa_lrs=1e-3)]},
    "GradientAccumulationScheduler": {"callbacks": [GradientAccumulationScheduler({0: 2, 1: 3})]},
    "EarlyStopping": {"callbacks": [EarlyStopping("val/nll", patience=1)]},
    "LearningRateMonitor": {"callbacks": [LearningRateMonitor()]},
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_trainer_works(option: str, tmp_path: Path) -> None:
    run, model = trainer(tmp_path, **OPTIONS[option]), build()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()
    run.fit(model, rows(8), rows(4))
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    assert torch.isfinite(run.callback_metrics["val/nll"])
    assert torch.isfinite(run.callback_metrics["train/loss"])


def test_the_page_names_every_option() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [option for option in OPTIONS if f"`{option}`" not in page]


def test_a_learning_rate_is_found_and_kept(tmp_path: Path) -> None:
    model = build()
    found = Tuner(trainer(tmp_path, max_epochs=-1, logger=False)).lr_find(model, rows(200), num_training=30)
    assert found is not None
    assert model.lr == found.suggestion() == learning_rate(model.optimizer)
    assert model.lr != 1e-2
    assert model.configure_optimizers().defaults["lr"] == model.lr


def test_the_learning_rate_is_that_of_the_optimiser() -> None:
    assert learning_rate(torch.optim.AdamW) == 1e-3
    assert learning_rate(partial(torch.optim.SGD, momentum=0.9)) == 1e-3
    assert learning_rate(partial(MuonAdamW, lr=3)) == 3.0
    model = build()
    model.lr = 0.5
    assert [group["lr"] for group in model.configure_optimizers().param_groups] == [0.5] * 3
    with pytest.raises(AttributeError, match="has no lr"):
        learning_rate(lambda groups: torch.optim.SGD(groups, 0.1))


@pytest.mark.parametrize("first", [True, False])
def test_a_subclass_may_keep_its_rate_under_that_name(first: bool) -> None:
    class Own(DiffusionLM):
        def __init__(self, lr: float) -> None:
            if first:
                self.lr = lr
            super().__init__(build().backbone, MaskingProcess(MASK))
            if not first:
                self.lr = lr

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    assert Own(0.25).lr == 0.25
    assert Own(0.25).configure_optimizers().defaults["lr"] == 0.25


@pytest.mark.parametrize(
    ("scheduler", "looks"),
    [
        (partial(ReduceOnPlateau, monitor="val/nll", factor=0.5, patience=0, threshold=10.0), 2),
        (partial(ReduceOnPlateau, monitor="train/loss", interval="step", factor=0.5, patience=0, threshold=10.0), 12),
        (partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=10.0), 2),
        (partial(lightning_cli.ReduceLROnPlateau, monitor="val/nll", factor=0.5, patience=0, threshold=10.0), 2),
    ],
)
def test_a_plateau_lowers_the_rate(scheduler: Any, looks: int, tmp_path: Path) -> None:
    """Nothing counts as an improvement, so every look halves the rate."""
    run, model = trainer(tmp_path, logger=False), build(lr_scheduler=scheduler)
    run.fit(model, rows(), rows(4))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**looks)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.lr_scheduler.keywords == scheduler.keywords


def test_an_unknown_interval_is_refused() -> None:
    with pytest.raises(ValueError, match='interval must be "epoch" or "step"'):
        ReduceOnPlateau(torch.optim.SGD([torch.zeros(1, requires_grad=True)]), interval="batch")
