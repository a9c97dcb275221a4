"""Learn from rewards on given ranks, and save the weights: train_rewards.py OUT, on one or two ranks.

`fit` is called in the tests' process for one rank, and on two by tests/rewards/test_training.py.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.rewards import Prompt, Reward, Rollout, RolloutLoader, Row, Writer, trajectory_grpo
from llada.samplers import PerStep, Proposal, TopProb, UnmaskingSampler

VOCAB, PROMPTS, GLOBAL_BATCH = 8, 16, 4
SAMPLER = UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(1.0))


class Ones(Reward):
    """How many ones an answer has, where they count: else all answers are equal, on some ranks all of a step."""

    def score(self, prompt: str, answer: str, row: Row) -> float:
        return float(answer.count("1")) * row["counts"]


def fit(devices: int, out: Path | None = None) -> tuple[Tensor, list[dict[str, Any]]]:
    """Train for four optimiser steps, two for each rollout; the weights (N,) and the batches of this rank."""
    torch.manual_seed(0)
    network = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2).double()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5)
    model = DiffusionLM(network, MaskingProcess(VOCAB - 1), trajectory_grpo(SAMPLER, useful_only=True), sampler=SAMPLER)
    model.optimizer = partial(torch.optim.SGD, lr=0.1)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    asked = torch.randint(1, VOCAB - 1, (PROMPTS, 2), generator=torch.Generator().manual_seed(0)).tolist()
    writer = Writer(Rollout(3, 4), Ones(), lambda ids: "".join(map(str, ids)))
    prompts = [Prompt(tokens, "", {"counts": index % 3 == 0}) for index, tokens in enumerate(asked)]
    loader = RolloutLoader(prompts, writer, GLOBAL_BATCH // devices, inner_steps=2, seed=1, trainer=trainer)
    trainer.fit(model, loader)
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    kept = loader.state_dict()["kept"]
    if out is not None and trainer.is_global_zero:
        torch.save({"weights": weights, "ranks_kept": len(kept)}, out)
    return weights, kept


if __name__ == "__main__":
    fit(2, Path(sys.argv[1]))
    dist.destroy_process_group()
