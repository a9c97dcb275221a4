"""What two ranks log, and how they end where one of them meets a NaN.

Run by tests/training/test_two_ranks.py on each of two ranks as: train_two_ranks.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import NELBO, PerScored
from llada.process import MaskingProcess

VOCAB, LENGTH, ROWS = 12, 8, 16


def rows() -> list[dict[str, torch.Tensor]]:
    """Rows of different lengths."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB - 1, (ROWS, LENGTH), generator=generator)
    real = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (ROWS, 1), generator=generator)
    return [{"tokens": t, "attention_mask": m} for t, m in zip(tokens, real, strict=True)]


class Poisoned(DiffusionLM):
    """Makes the loss or the gradient of one rank NaN in one step, if it is to."""

    poisoned, gradient, scale = False, False, 1.0

    def train_dataloader(self) -> Any:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = DistributedSampler(rows(), num_replicas=world, rank=rank, shuffle=False)
        return DataLoader(rows(), batch_size=4 // world, sampler=sampler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        bad = self.poisoned and self.trainer.global_rank == 1 and batch_idx == 2
        self.scale = torch.nan if bad else 1.0

    def spoil(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Spoil what goes forward, or the gradient that comes back."""
        scale = self.scale
        if not self.gradient:
            return output * scale
        output.register_hook(lambda gradient: gradient * scale)
        return output


def fit(folder: Path, devices: int, **options: Any) -> dict[str, Any]:
    """Train for four steps; what was logged last, or the message with which it ended."""
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2).double()
    model = Poisoned(
        backbone,
        MaskingProcess(VOCAB - 1),
        NELBO(normaliser=PerScored()),
        on_nonfinite=options.pop("on_nonfinite", "raise"),
    )
    model.poisoned, model.gradient = options.pop("poisoned", False), options.pop("gradient", False)
    backbone.final_norm.register_forward_hook(model.spoil)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)],
        max_steps=4,
        log_every_n_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(model)
    except ValueError as error:
        return {"message": str(error)}
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {"weights": weights, **{name: float(value) for name, value in trainer.callback_metrics.items()}}


def main(folder: Path) -> None:
    """Everything that takes two ranks."""
    torch.set_num_threads(1)
    results = {
        "plain": fit(folder / "plain", 2),
        "loss": fit(folder / "loss", 2, poisoned=True),
        "gradient": fit(folder / "gradient", 2, poisoned=True, gradient=True),
        "skipped": fit(folder / "skipped", 2, poisoned=True, on_nonfinite="skip"),
    }
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
