"""``predict``: every row of the data has its own seed, which its batch doesn't change."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import low_confidence

MASK, LENGTH, ROWS = 11, 12, 5


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip


def predicted(trainer: Trainer, batch_size: int, seed: int = 3) -> Tensor:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(MASK + 1, 16, 1, 2)
    model = DiffusionLM(backbone, MaskingProcess(MASK), sampler=low_confidence(4, temperature=1.0), seed=seed)
    rows = [{"tokens": torch.full((LENGTH,), MASK)}] * ROWS
    return torch.cat([sample.tokens for sample in trainer.predict(model, DataLoader(rows, batch_size=batch_size))])


@pytest.mark.parametrize("batch_size", [2, 3, ROWS])
def test_equal_canvases_differ_and_do_not_depend_on_the_batches(trainer: Trainer, batch_size: int) -> None:
    alone, together = predicted(trainer, 1), predicted(trainer, batch_size)
    assert torch.equal(alone, together)
    assert len(together.unique(dim=0)) == ROWS
    assert torch.equal(predicted(trainer, 1), alone)


def test_the_seed_of_the_model_moves_all_rows(trainer: Trainer) -> None:
    assert torch.equal(predicted(trainer, 2, seed=4)[:-1], predicted(trainer, 2, seed=3)[1:])
