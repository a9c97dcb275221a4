"""WideningNoise: the interval of every step, also after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import MaskedNELBO, Objective, discrete_time, masked_mean
from llada.process import MaskingProcess
from llada.training.callbacks import WideningNoise

SILENT: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Watch(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append((pl_module.objective.times.t_min, pl_module.objective.times.t_max))


def fit(objective: Objective, folder: Path, steps: int, **options: Any) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(4, width=8, num_layers=1, num_heads=2)
    model, watch = DiffusionLM(backbone, MaskingProcess(3), objective=objective, optimizer=torch.optim.SGD), Watch()
    callbacks = [WideningNoise(0.2, 0.6, steps=4), watch]
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=callbacks, default_root_dir=folder, **SILENT)
    trainer.fit(model, DataLoader([{"tokens": torch.tensor([0, 2, 0])}] * 8, batch_size=1), **options)
    trainer.save_checkpoint(folder / "model.ckpt")
    assert model.objective.weight == objective.weight  # nothing else of the objective changes
    return watch.seen


def test_the_interval_widens_and_stays_wide(tmp_path: Path) -> None:
    seen = fit(masked_mean(0.2, 0.6), tmp_path, steps=6)
    wanted = [(0.2, 0.6), (0.15, 0.7), (0.1, 0.8), (0.05, 0.9), (0.0, 1.0), (0.0, 1.0)]
    assert [pytest.approx(interval) for interval in wanted] == seen


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    fit(MaskedNELBO(), tmp_path, steps=2)
    seen = fit(MaskedNELBO(), tmp_path, steps=4, ckpt_path=tmp_path / "model.ckpt")
    assert seen == [pytest.approx((0.1, 0.8)), pytest.approx((0.05, 0.9))]


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="times have t_min and t_max"):
        fit(discrete_time(4), tmp_path, steps=1)
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        WideningNoise(0.1, 0.6, steps=0)
    with pytest.raises(ValueError, match=r"0 <= t_min < t_max <= 1; got 0\.6 to 0\.1"):
        WideningNoise(0.6, 0.1, steps=1)
