"""Train on two ranks, of which the second alone is asked to end.

Run by tests/training/test_interrupted_ranks.py on each rank as: train_interrupted.py FOLDER asked | resumed
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from llada.backbones import BidirectionalTransformer
from llada.data.loader import training_loader
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import SaveAtEnd
from llada.training.loop import replicas_of
from tests.scripts.train_sharded import VOCAB, Rows

STEPS, ASKED_AT = 9, 5
"""Of twelve micro-batches in an epoch, two of a step: the run is asked in the third step."""


class Asked(DiffusionLM):
    """Gets a signal in the first micro-batch of a step, if it is to."""

    asked = False

    def train_dataloader(self) -> Any:
        ranks = replicas_of(self)
        return training_loader(Rows(), 1, 0, 0, ranks.size, ranks.rank)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.asked and self.trainer.global_rank == 1 and batch_idx == ASKED_AT - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder: Path, asked: bool = False, resume: Path | None = None) -> torch.Tensor:
    """Train on two ranks; the weights and the optimiser's averages, (N,)."""
    torch.manual_seed(0)
    model = Asked(BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2), MaskingProcess(VOCAB - 1))
    model.asked = asked
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[ModelCheckpoint(folder, filename="model", enable_version_counter=False), SaveAtEnd()],
        accumulate_grad_batches=2,
        max_steps=STEPS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, ckpt_path=resume)
    states = trainer.optimizers[0].state_dict()["state"].values()
    found = [*model.parameters(), *(state[name] for state in states for name in ("exp_avg", "exp_avg_sq"))]
    return torch.cat([tensor.detach().flatten() for tensor in found])


def main(folder: Path, what: str) -> None:
    """A whole run, and then one that is asked to end; or one that goes on."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if what == "asked":
        torch.save(fit(folder / "whole"), folder / f"whole{rank}.pt")
        fit(folder / "run", asked=True)
    else:
        torch.save(fit(folder / "run", resume=folder / "run/model.ckpt"), folder / f"resumed{rank}.pt")
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
