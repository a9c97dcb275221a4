"""WideningNoise: the interval of every step, also after a resume."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from examples.demo_callbacks import WideningNoise, with_interval
from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import NELBO, ExactCounts, NextTokens, Objective, RandomLength, discrete_time, masked_mean
from llada.process import MaskingProcess

SILENT: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def interval_of(objective: Any) -> tuple[float, float]:
    times = objective.design.times
    return times.t_min, times.t_max


class Watch(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        objective = pl_module.objective
        self.seen.append(interval_of(getattr(objective, "inner", objective)))


def fit(objective: Objective, folder: Path, steps: int, **options: Any) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(4, width=8, num_layers=1, num_heads=2)
    model, watch = DiffusionLM(backbone, MaskingProcess(3), objective=objective, optimizer=torch.optim.SGD), Watch()
    callbacks = [WideningNoise(0.2, 0.6, steps=4), watch]
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=callbacks, default_root_dir=folder, **SILENT)
    trainer.fit(model, DataLoader([{"tokens": torch.tensor([0, 2, 0])}] * 8, batch_size=1), **options)
    trainer.save_checkpoint(folder / "model.ckpt")
    assert with_interval(model.objective, 0.0, 1.0) == with_interval(objective, 0.0, 1.0)  # nothing else changes
    return watch.seen


def test_the_interval_widens_and_stays_wide(tmp_path: Path) -> None:
    seen = fit(masked_mean(0.2, 0.6), tmp_path, steps=6)
    wanted = [(0.2, 0.6), (0.15, 0.7), (0.1, 0.8), (0.05, 0.9), (0.0, 1.0), (0.0, 1.0)]
    assert [pytest.approx(interval) for interval in wanted] == seen


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    fit(NELBO(), tmp_path, steps=2)
    seen = fit(NELBO(), tmp_path, steps=4, ckpt_path=tmp_path / "model.ckpt")
    assert seen == [pytest.approx((0.1, 0.8)), pytest.approx((0.05, 0.9))]


@pytest.mark.parametrize(
    "objective",
    [masked_mean(0.2, 0.6), RandomLength(masked_mean(), probability=0.5), discrete_time(4), NELBO(ExactCounts())],
    ids=["masked mean", "in a random length", "time grid", "exact counts"],
)
def test_only_the_interval_changes(objective: Any, tmp_path: Path) -> None:
    seen = fit(objective, tmp_path, steps=2)
    assert seen == [pytest.approx((0.2, 0.6)), pytest.approx((0.15, 0.7))]
    inner = getattr(objective, "inner", objective)
    changed = with_interval(objective, 0.1, 0.9)
    kept = getattr(changed, "inner", changed)
    assert interval_of(kept) == (0.1, 0.9)
    assert (kept.weight, kept.normaliser) == (inner.weight, inner.normaliser)
    assert replace(kept.design, times=inner.design.times) == inner.design
    assert getattr(changed, "probability", None) == getattr(objective, "probability", None)


def test_it_reaches_into_an_objective_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Scaled(Objective):
        inner: Objective

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return self.inner(*arguments, **options)

    changed = with_interval(Scaled(RandomLength(masked_mean())), 0.1, 0.9)
    assert changed == Scaled(RandomLength(masked_mean(0.1, 0.9)))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="times have t_min and t_max"):
        fit(NELBO(NextTokens()), tmp_path, steps=1)
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        WideningNoise(0.1, 0.6, steps=0)
    with pytest.raises(ValueError, match=r"0 <= t_min < t_max <= 1; got 0\.6 to 0\.1"):
        WideningNoise(0.6, 0.1, steps=1)
