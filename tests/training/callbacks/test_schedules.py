"""Schedules of block lengths and of attention: what each step trains with, and what a killed run goes on with."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.widening import Widening
from llada.data.loader import training_loader
from llada.module import DiffusionLM
from llada.objectives import NELBO, Blockwise, Design, IndependentMasks
from llada.process import MaskingProcess
from llada.training.callbacks import BlockLengths, WideningAttention

STAGES = {0: 1, 2: 3, 4: None, 6: 2}
LENGTH, MASK = 8, 10


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 32

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"tokens": (torch.tensor(indices)[:, None] + torch.arange(LENGTH)) % MASK}


class Watch(Callback):
    """Notes the block length and the widening of every step."""

    def __init__(self) -> None:
        self.seen: list[int | None] = []
        self.widened: list[Widening | None] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(pl_module.backbone.block_length)
        self.widened.append(pl_module.backbone.widening)


def model(block_length: int | None = 2, design: Design = Blockwise(), **options: Any) -> DiffusionLM:  # noqa: B008
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(11, 8, 1, 2, max_length=16, block_length=block_length, shift=True, **options)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    return DiffusionLM(backbone, MaskingProcess(MASK), NELBO(design), optimizer=optimizer, seed=3)


def full() -> DiffusionLM:
    return model(None, IndependentMasks())


def fit(
    module: DiffusionLM, watch: Watch, folder: Path, resume: Path | None = None, schedule: Callback | None = None
) -> None:
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", max_steps=8, callbacks=[watch, schedule or BlockLengths(STAGES), keep], logger=False,

        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, training_loader(Rows(), 2, 0, seed=0), ckpt_path=resume, weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionLM, Path]:
    """A run from end to end, with a checkpoint of every step."""
    module, watch, folder = model(), Watch(), tmp_path_factory.mktemp("whole")
    fit(module, watch, folder)
    assert watch.seen == [1, 1, 3, 3, 16, 16, 2, 2]
    assert module.backbone.block_length == 2
    return module, folder


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_goes_on_in_the_middle_bit_for_bit(whole: tuple[DiffusionLM, Path], step: int, tmp_path: Path) -> None:
    module, folder = whole
    again, watch = model(block_length=7), Watch()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "this run goes on with other parts")
        fit(again, watch, tmp_path, folder / f"step={step}.ckpt")
    assert watch.seen == [1, 1, 3, 3, 16, 16, 2, 2][step:]
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_checkpoint_holds_the_block_length_of_its_step(whole: tuple[DiffusionLM, Path]) -> None:
    _, folder = whole
    found = [DiffusionLM.load_from_checkpoint(folder / f"step={step}.ckpt").backbone.block_length for step in (1, 3, 5)]
    assert found == [1, 3, 16]


@pytest.mark.parametrize("stages", [{}, {1: 4}, {-1: 1, 0: 2}])
def test_stages_begin_at_the_beginning(stages: dict[int, int | None]) -> None:
    with pytest.raises(ValueError, match="must begin at step 0"):
        BlockLengths(stages)


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more, or null for the whole row; got 0"):
        BlockLengths({0: 0})


def test_a_backbone_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BidirectionalTransformer has block_length=None; give it one"):
        fit(model(block_length=None), Watch(), tmp_path)


def test_attention_widens_and_a_run_goes_on_in_the_middle_bit_for_bit(tmp_path: Path) -> None:
    whole, again, plain = full(), full(), full()
    first, second = Watch(), Watch()
    fit(whole, first, tmp_path / "whole", schedule=WideningAttention(5))
    assert first.widened == [Widening((step + 1) / 5, 3, step) for step in range(4)] + [None] * 4
    assert whole.backbone.widening is None
    fit(again, second, tmp_path / "again", tmp_path / "whole" / "step=2.ckpt", WideningAttention(5))
    assert second.widened == first.widened[2:]
    fit(plain, Watch(), tmp_path / "plain", schedule=Callback())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(whole.backbone.head.weight, plain.backbone.head.weight)


@pytest.mark.parametrize(("options", "shown"), [({"causal": True}, "'causal': True"), ({}, "'block_length': 2")])
def test_what_cannot_be_widened_is_refused(options: dict[str, Any], shown: str, tmp_path: Path) -> None:
    module = model(None if options else 2, IndependentMasks(), **options)
    with pytest.raises(ValueError, match=rf"built with causal=False and without block_length; got .*{shown}"):
        fit(module, Watch(), tmp_path, schedule=WideningAttention(5))


def test_widening_takes_a_step_at_least() -> None:
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        WideningAttention(0)
