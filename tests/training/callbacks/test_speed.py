"""Speed: exact values from a clock that is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import Speed
from llada.training.callbacks.speed import peak_memory
from llada.training.flops import forward_flops

FETCH, STEP, VALIDATION = 0.25, 1.0, 100.0


class Clock:
    """Time passes only where something is said to take time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SlowRows(torch.utils.data.Dataset):
    def __init__(self, clock: Clock, rows: list[dict[str, Tensor]]) -> None:
        self.clock, self.rows = clock, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.now += FETCH / 2  # two rows per batch
        return self.rows[index]


class Data(LightningDataModule):
    def __init__(self, clock: Clock, rows: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.clock, self.rows = clock, rows

    def train_dataloader(self) -> DataLoader:
        return DataLoader(SlowRows(self.clock, self.rows), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.rows[:2], batch_size=2)


class Passing(Callback):
    """A step takes a second, a validation a hundred."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += STEP

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.clock.now += VALIDATION


def fit(rows: list[dict[str, Tensor]], folder: Path, accumulate: int = 1, **options: Any) -> list[dict[str, float]]:
    """What is logged at steps 2 and 4."""
    clock = Clock()
    model = DiffusionLM(BidirectionalTransformer(8, width=8, num_layers=2, num_heads=2), MaskingProcess(7))
    logged: list[dict[str, float]] = []

    class Reader(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if "speed/data_wait" in metrics:
                logged.append({name: value for name, value in metrics.items() if name.startswith("speed/")})

    trainer = Trainer(
        accelerator="cpu",
        max_steps=4,
        accumulate_grad_batches=accumulate,
        val_check_interval=accumulate,
        log_every_n_steps=2,
        num_sanity_val_steps=1,
        callbacks=[Passing(clock), Speed(clock=clock, **options)],
        logger=Reader(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data(clock, rows))
    assert "speed/tokens_per_second" in trainer.progress_bar_metrics
    return logged


def plain(count: int) -> list[dict[str, Tensor]]:
    return [{"tokens": torch.arange(6)} for _ in range(count)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_tokens_per_second_and_data_wait(tmp_path: Path, accumulate: int) -> None:
    """Validations, sanity check included, are left out; the interval is of optimiser steps."""
    first, second = fit(plain(8 * accumulate), tmp_path, accumulate)
    for values in (first, second):
        assert values["speed/tokens_per_second"] == pytest.approx(12 / (FETCH + STEP))
        assert values["speed/data_wait"] == pytest.approx(FETCH / (FETCH + STEP))
        assert "speed/mfu" not in values  # nobody knows a CPU's peak


def test_utilisation(tmp_path: Path) -> None:
    flops = forward_flops(BidirectionalTransformer(8, width=8, num_layers=2, num_heads=2))
    per_batch = 3 * (12 * flops.per_token + 2 * 36 * flops.per_pair + 3 * flops.per_scored)
    values = fit(plain(8), tmp_path, peak_flops=1e6, scored=0.25)[0]
    assert values["speed/mfu"] == pytest.approx(per_batch / (FETCH + STEP) / 1e6)


def test_padding_is_not_counted(tmp_path: Path) -> None:
    rows = [{"tokens": torch.arange(6), "attention_mask": torch.arange(6) < 4} for _ in range(8)]
    assert fit(rows, tmp_path)[0]["speed/tokens_per_second"] == pytest.approx(8 / (FETCH + STEP))


def test_peak_memory_is_that_of_the_process(tmp_path: Path) -> None:
    logged = fit(plain(8), tmp_path)[0]["speed/peak_memory_gib"]
    assert 0.1 < logged <= peak_memory(torch.device("cpu")) / 2**30 < 1000


@pytest.mark.parametrize("options", [{"scored": 0.0}, {"scored": 1.5}, {"peak_flops": 0.0}])
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Speed(**options)
