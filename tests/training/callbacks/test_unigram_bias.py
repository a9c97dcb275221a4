"""UnigramBias: a fresh model predicts the frequencies, a resumed one keeps what it learned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import UnigramBias

COUNTS = torch.tensor([5, 0, 3, 0])


class Counted(LightningDataModule):
    def token_counts(self) -> Tensor:
        return COUNTS

    def train_dataloader(self) -> DataLoader:
        return DataLoader([{"tokens": torch.tensor([0, 2, 0])}], batch_size=1)


def build(**options: Any) -> DiffusionLM:
    backbone = BidirectionalTransformer(4, width=8, num_layers=1, num_heads=2, **options)
    return DiffusionLM(backbone, MaskingProcess(3), optimizer=torch.optim.SGD)


def fit(model: DiffusionLM, data: Any, folder: Path, **options: Any) -> Trainer:
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[UnigramBias()], default_root_dir=folder, **silent)
    trainer.fit(model, data, **options)
    return trainer


@pytest.mark.parametrize("tied", [False, True])
def test_the_bias_is_the_log_frequency(tmp_path: Path, tied: bool) -> None:
    model = build(tie_embeddings=tied, head_bias=True)
    seen = []
    model.on_train_batch_start = lambda *_: seen.append(model.backbone.head.bias.detach().clone())
    trainer = fit(model, Counted(), tmp_path)
    torch.testing.assert_close(seen[0], torch.log((COUNTS + 1) / 12))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = build(tie_embeddings=tied, head_bias=True)
    fit(again, Counted(), tmp_path, ckpt_path=tmp_path / "model.ckpt")
    torch.testing.assert_close(again.backbone.head.bias, model.backbone.head.bias)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="head_bias=True"):
        fit(build(), Counted(), tmp_path)
    with pytest.raises(ValueError, match="token_counts"):
        fit(build(head_bias=True), Counted().train_dataloader(), tmp_path)
    with pytest.raises(ValueError, match="smoothing must be above 0"):
        UnigramBias(0.0)
