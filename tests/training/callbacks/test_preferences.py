"""Preferences under the Trainer: the reference is the beginning, also of a resumed run, and numbers are the step's."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from llada import DiffusionLM, MaskingProcess
from llada.metrics import PreferenceMetric
from llada.objectives import NELBO, FrozenCopy, PreferenceObjective, SimPO, StoredBounds
from llada.objectives.preference import PreferenceOutput
from llada.random import RowRandom
from llada.training.callbacks import Preferences
from tests.objectives.test_preference import MASK, network, pairs


class Pairs(list):
    """Eight pairs, each with its number, which gather a batch at once."""

    def __init__(self) -> None:
        batch = pairs(8) | {"row": torch.arange(8)}
        super().__init__({name: value[row] for name, value in batch.items()} for row in range(8))

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([self[row][name] for row in indices]) for name in self[0]}


class Data(LightningDataModule):
    def __init__(self, batch: int = 4) -> None:
        super().__init__()
        self.batch = batch

    def rows(self, part: str) -> Pairs:
        return Pairs()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Pairs(), batch_size=self.batch, collate_fn=lambda batch: batch)

    val_dataloader = train_dataloader


def build(objective: Any = None, seed: int = 0) -> DiffusionLM:
    objective = PreferenceObjective(draws=2) if objective is None else objective
    optimizer = partial(torch.optim.AdamW, lr=3e-2)
    return DiffusionLM(network(seed), MaskingProcess(MASK), objective, optimizer=optimizer)


def fit(model: DiffusionLM, steps: int, callback: Preferences, batch: int = 4, **options: Any) -> dict[str, float]:
    kept = {"ckpt_path": options.pop("ckpt_path", None), "weights_only": True}
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=Data(batch), **kept)
    model.saved = trainer  # type: ignore[assignment]
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_first_step_costs_log_2_and_preferences_are_learnt() -> None:
    logged = fit(build(PreferenceObjective(draws=2, sft_weight=0.0)), 1, Preferences(), limit_val_batches=0)
    assert logged["train/preference_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert logged["train/preference_accuracy"] == 0.5
    assert logged["train/preference_kl"] == 0.0
    logged = fit(build(), 10, Preferences(), batch=8)
    assert logged["val/preference_accuracy"] > 0.8
    assert logged["val/preference_margin"] > 2 * logged["val/preference_margin_se"] > 0
    assert logged["val/preference_noise_se"] > 0
    assert {"val/nll", "val/preference_kl", "val/preference_loss"} <= set(logged)


def test_an_accumulated_step_logs_and_learns_what_one_big_batch_does() -> None:
    models = build(), build()
    one = fit(models[0], 2, Preferences(), batch=8, limit_val_batches=0)
    other = fit(models[1], 2, Preferences(), batch=2, accumulate_grad_batches=4, limit_val_batches=0)
    assert one == pytest.approx(other, rel=1e-5)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-10)


def test_a_resumed_run_has_the_reference_of_its_beginning(tmp_path: Path) -> None:
    whole = build()
    fit(whole, 4, Preferences(), limit_val_batches=0)
    first = build()
    fit(first, 2, Preferences(), limit_val_batches=0)
    first.saved.save_checkpoint(tmp_path / "half.ckpt")
    second = build()
    fit(second, 4, Preferences(), limit_val_batches=0, ckpt_path=tmp_path / "half.ckpt")
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="another reference"):
        fit(build(seed=1), 4, Preferences(), limit_val_batches=0, ckpt_path=tmp_path / "half.ckpt")
    named = Preferences(str(tmp_path / "half.ckpt"))
    fit(build(), 1, named, limit_val_batches=0)
    assert named._copy is not None
    for one, other in zip(named._copy.parameters(), first.backbone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_stored_values_are_written_once_and_train_as_a_copy_does(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "reference.npy"
    stored = PreferenceObjective(reference=StoredBounds(str(path)), draws=2)
    logged = fit(build(stored), 1, Preferences())
    assert abs(logged["train/preference_kl"]) < 1e-12
    assert "val/preference_margin" not in logged
    written = path.read_bytes()
    fit(build(stored), 2, Preferences(), limit_val_batches=0)
    assert path.read_bytes() == written


def test_it_is_for_preferences_alone() -> None:
    with pytest.raises(ValueError, match="NELBO"):
        fit(build(NELBO()), 1, Preferences())
    assert fit(build(PreferenceObjective(SimPO(), draws=1)), 2, Preferences())["val/preference_accuracy"] >= 0.0


def test_the_metric_is_the_mean_and_its_error_whatever_the_batches() -> None:
    reference = FrozenCopy()
    reference.hold(network(1))
    objective, batch, whole, parts = PreferenceObjective(reference=reference, draws=2), pairs(8), [], []
    for rows, found in ((range(8), whole), (range(3), parts), (range(3, 8), parts)):
        chosen = torch.tensor(list(rows))
        random = RowRandom.for_step(0, 0, chosen, 8)
        some = {name: value[chosen] for name, value in batch.items()}
        found.append(objective(network(0), MaskingProcess(MASK), some, random=random))
    metrics = []
    for outputs in (whole, parts):
        metric = PreferenceMetric()
        for output in outputs:
            metric.update(output)
        metrics.append({name: float(value) for name, value in metric.compute().items()})
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-9)
    margins: PreferenceOutput = whole[0]
    assert metrics[0]["preference_margin"] == pytest.approx(float(margins.margins.mean()))
    assert metrics[0]["preference_margin_se"] == pytest.approx(float(margins.margins.std() / 8**0.5))
