"""Train a tiny model that was built on the meta device, split over ranks; what it was fed and what came out is saved.

Run by tests/test_parallel.py on each of two ranks as: train_sharded.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.storage import AtomicModelParallelStrategy
from llada.data.loader import training_loader
from llada.heads import Chunked
from llada.module import DiffusionLM
from llada.objectives import NELBO, PerRow
from llada.process import MaskingProcess
from llada.training.initial_weights import InitialWeights
from llada.training.loop import replicas_of
from llada.training.muon import MuonAdamW

ROWS, LENGTH, VOCAB, STEPS, GLOBAL_BATCH, WINDOW = 24, 12, 16, 4, 8, 2


SIZES = {"width": 16, "num_layers": 2, "num_heads": 2, "hidden_width": 32}


class Rows(torch.utils.data.Dataset):
    """Rows whose answers have different lengths, so that denominators differ between ranks and micro-batches."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(VOCAB - 1, (ROWS, LENGTH), generator=generator)
        self.maskable = torch.arange(LENGTH) >= torch.randint(LENGTH, (ROWS, 1), generator=generator)

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"tokens": self.tokens[indices], "maskable": self.maskable[indices]}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().flatten().clone()


class Recorder(DiffusionLM):
    """Keeps the loss of each step, summed over ranks, and the gradients that the optimiser sees."""

    def train_dataloader(self) -> Any:
        ranks = replicas_of(self)
        return training_loader(Rows(), GLOBAL_BATCH // WINDOW // ranks.size, 0, 0, ranks.size, ranks.rank)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        ranks, total = replicas_of(self), loss.detach().clone()
        if ranks.size > 1:
            dist.all_reduce(total, group=ranks.group)
        self.losses.append(total / ranks.size)
        return loss

    def on_train_start(self) -> None:
        self.first = torch.cat([whole(p) for p in self.parameters()])

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.gradients.append(torch.cat([whole(p.grad) for p in self.parameters() if p.grad is not None]))


def fit(
    strategy: Any, devices: int, folder: Path | None = None, resume: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Train; save a checkpoint every second step in ``folder``, if given."""
    with torch.device("meta"):
        backbone = BidirectionalTransformer(VOCAB, **{**SIZES, "qk_norm": options.pop("qk_norm", True)})
    model = Recorder(backbone, MaskingProcess(mask_token_id=VOCAB - 1), NELBO(normaliser=PerRow()), seed=5)
    model.head_loss = Chunked(5 * VOCAB)  # rows of the head in several chunks
    model.optimizer = options.pop("optimizer", model.optimizer)
    model.losses, model.gradients = [], []
    begin = [InitialWeights(str(path))] if (path := options.pop("begin_with", None)) else []
    saving = [] if folder is None else [ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1)]
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        callbacks=[*begin, *saving],
        accumulate_grad_batches=WINDOW,
        gradient_clip_val=0.5,
        max_steps=options.pop("max_steps", STEPS),
        logger=False,
        enable_checkpointing=bool(saving),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, ckpt_path=resume)
    return {
        "losses": torch.stack(model.losses),
        "gradients": torch.stack(model.gradients),
        "first": model.first,
        "weights": torch.cat([whole(p) for p in model.parameters()]),
        "num_local": sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters()),
    }


def sharded(data: int, tensor: int = 1, shard_size: int | None = None) -> ModelParallelStrategy:
    return AtomicModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor, shard_size=shard_size)


def half_way(folder: Path) -> Path:
    """The checkpoint after the second step."""
    (path,) = folder.glob("*step=2.ckpt")
    return path


def main(folder: Path) -> None:
    """Everything that takes two ranks."""
    torch.set_num_threads(1)
    results = {
        "data": fit(sharded(2), 2, folder / "two"),
        "tensor": fit(sharded(1, 2), 2),
        "copies": fit(sharded(2, shard_size=1), 2),
        "released": fit(sharded(2), 2, begin_with=folder / "released", qk_norm=False, max_steps=1),
        "muon": fit(sharded(2), 2, optimizer=MuonAdamW),
        "resumed": fit(sharded(2), 2, resume=half_way(folder / "one")),
    }
    if dist.get_rank() == 0:
        torch.save(results, folder / "two.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
