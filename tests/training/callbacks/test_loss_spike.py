"""After a spike the run goes on from the weights and the optimiser of before, behind the batches that made it."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchdata.stateful_dataloader import StatefulDataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import NELBO, PerScored, UnitWeight
from llada.process import MaskingProcess
from llada.training.callbacks import LossSpike

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


class Spiking(DiffusionLM):
    """Breaks its weights before some steps, and notes them after every step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step in self.spikes:
            with torch.no_grad():
                self.backbone.head.weight.mul_(1e4)


class Watching(LossSpike):
    """Notes weights and optimiser after every step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *arguments: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *arguments)
        state = copy.deepcopy(trainer.optimizers[0].state_dict())
        self.seen = [*getattr(self, "seen", []), (flat(pl_module), state)]


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def fit(
    folder: Path, watch: LossSpike, steps: int, spikes: set[int], resume: Path | None = None, **options: Any
) -> Trainer:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    objective = NELBO(weight=UnitWeight(), normaliser=PerScored())
    model = Spiking(backbone, MaskingProcess(MASK), objective, optimizer=optimizer)
    model.spikes = spikes
    tokens = torch.randint(MASK, (200, LENGTH), generator=torch.Generator().manual_seed(1))
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[watch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(model, StatefulDataLoader([{"tokens": row} for row in tokens], batch_size=4), ckpt_path=resume)
    return trainer


def test_a_spike_is_undone_and_its_batch_is_left_behind(tmp_path: Path) -> None:
    watch = Watching(threshold=10.0, window=8, every=4)
    with pytest.warns(UserWarning, match=r"jumped to .* at step 14, .* the optimiser of step 8"):
        trainer = fit(tmp_path, watch, 20, {14})
    assert watch.rollbacks == [15]
    assert trainer.global_step == 20
    (before, state), (after, again), (onwards, _) = watch.seen[7], watch.seen[14], watch.seen[15]
    assert torch.equal(after, before)
    for index, own in state["state"].items():
        assert all(torch.equal(own[name], again["state"][index][name]) for name in own)
    assert not torch.equal(onwards, after)
    assert float(trainer.callback_metrics["train/loss"]) < 4.0


@pytest.mark.parametrize(("stored", "step"), [(True, 8), (False, 11)])
def test_a_resumed_run_goes_back_as_far_as_one_that_went_on(tmp_path: Path, stored: bool, step: int) -> None:
    whole, first, second = (Watching(window=8, every=4, store_copies=stored) for _ in range(3))
    with pytest.warns(UserWarning, match="the optimiser of step 8"):
        fit(tmp_path, whole, 18, {14})
    fit(tmp_path, first, 11, set()).save_checkpoint(tmp_path / "half.ckpt")
    with pytest.warns(UserWarning, match=rf"jumped to .* at step 14, .* the optimiser of step {step}"):
        fit(tmp_path, second, 18, {14}, resume=tmp_path / "half.ckpt")
    assert torch.equal(second.seen[-1][0], whole.seen[-1][0]) == stored


def test_nothing_happens_without_a_spike(tmp_path: Path) -> None:
    watch, nothing = Watching(window=8, every=4), Watching(threshold=1e9, window=8, every=100)
    for callback in (watch, nothing):
        fit(tmp_path, callback, 12, set())
        assert not callback.rollbacks
    assert torch.equal(watch.seen[-1][0], nothing.seen[-1][0])


def test_going_back_again_and_again_ends_the_run(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="jumped"),
        pytest.raises(ValueError, match=r"3 times within 8 steps .*lower the learning rate"),
    ):
        fit(tmp_path, LossSpike(window=8, every=4, max_rollbacks=2), 20, {8, 9, 10})


def test_a_spike_is_far_above_the_median_in_robust_deviations() -> None:
    watch = LossSpike(threshold=5.0, window=10, every=1)
    watch.load_state_dict({"losses": [2.0, 2.1, 1.9, 2.0], "rollbacks": []})
    assert not watch.is_spike(1e9)  # too few to compare with
    watch.load_state_dict({"losses": [2.1, 1.9, 50.0], "rollbacks": [3]})
    # Median 2.0 (7 values), median absolute deviation 0.1: 2.0 + 5 x 1.4826 x 0.1 = 2.74
    assert not watch.is_spike(2.74)
    assert watch.is_spike(2.75)
    assert watch.state_dict() == {"losses": [2.0, 2.1, 1.9, 2.0, 2.1, 1.9, 50.0], "rollbacks": [3], "copies": []}


def test_wrong_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"window 4 or more.*window=3"):
        LossSpike(window=3)
    with pytest.raises(ValueError, match="needs a DiffusionLM"):
        LossSpike().on_train_start(Trainer(accelerator="cpu", logger=False), LightningModule())
