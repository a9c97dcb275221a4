"""Train a tiny model on given ranks and accumulation steps, and save its gradients and weights.

`main` is run on two ranks by tests/training/test_distributed.py as: train_distributed.py OUT OBJECTIVE...
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.objectives import (
    NELBO,
    Objective,
    PerPosition,
    PerRow,
    PerScored,
    PerToken,
    PreferenceObjective,
    SimPO,
)
from llada.process import MaskingProcess

ROWS, LENGTH, VOCAB, STEPS = 24, 12, 16, 3
OBJECTIVES: dict[str, Objective] = {
    "position": NELBO(normaliser=PerPosition()),
    "token": NELBO(normaliser=PerToken()),
    "row": NELBO(normaliser=PerRow()),
    "masked": NELBO(normaliser=PerScored()),
    "preference": PreferenceObjective(SimPO(), draws=2),  # which needs no reference
}


def rows() -> list[dict[str, torch.Tensor]]:
    """Rows whose answers have different lengths, so that denominators differ between ranks and micro-batches."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB - 1, (ROWS, LENGTH), generator=generator)
    start = torch.randint(LENGTH, (ROWS, 1), generator=generator)
    maskable = torch.arange(LENGTH) >= start
    columns = {"tokens": tokens, "maskable": maskable, "rejected_tokens": tokens.flip(0), "rejected_maskable": maskable}
    return [{name: column[row] for name, column in columns.items()} for row in range(ROWS)]


class Recorder(DiffusionLM):
    """Keeps the gradients that the optimiser sees."""

    gradients: list[torch.Tensor]
    batch: int

    def train_dataloader(self) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = DistributedSampler(rows(), num_replicas=world, rank=rank, shuffle=False)
        return DataLoader(rows(), batch_size=self.batch, sampler=sampler)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in self.parameters() if p.grad is not None]))


def fit(devices: int, accumulate: int, batch: int, objective: str) -> dict[str, torch.Tensor]:
    """Train for a few steps; gradients (STEPS, N) and weights (N,), float64."""
    torch.manual_seed(0)
    model = Recorder(
        BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2).double(),
        MaskingProcess(mask_token_id=VOCAB - 1),
        OBJECTIVES[objective],
    )
    model.gradients, model.batch = [], batch
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        accumulate_grad_batches=accumulate,
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"gradients": torch.stack(model.gradients), "weights": weights}


def main(out: str, *objectives: str) -> None:
    """Two ranks with two micro-batches of two rows each."""
    torch.set_num_threads(1)
    results = {name: fit(2, 2, 2, name) for name in objectives}
    if dist.get_rank() == 0:
        torch.save(results, Path(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
