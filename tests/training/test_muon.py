"""MuonAdamW is PyTorch's two optimisers, each on its parameters, behind one state and one schedule."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.groups import parameter_groups
from llada.training.lr_schedulers import WarmupCosine
from llada.training.muon import MuonAdamW

VOCAB = 8


def build(**options: Any) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(
        VOCAB, width=8, num_layers=1, num_heads=2, qkv_bias=True, convolution=3, head_bias=True, **options
    )
    return DiffusionLM(
        backbone,
        MaskingProcess(VOCAB - 1),
        optimizer=partial(MuonAdamW, lr=0.02),
        lr_scheduler=partial(WarmupCosine, warmup_steps=2, total_steps=6),
    )


def names(module: nn.Module) -> list[set[str]]:
    by_parameter = {parameter: name.removeprefix("backbone.") for name, parameter in module.named_parameters()}
    return [{by_parameter[p] for p in group["params"]} for group in parameter_groups(module)]


@pytest.mark.parametrize("tied", [False, True])
def test_hidden_matrices_are_those_between_activations(tied: bool) -> None:
    hidden, others, vectors = names(build(tie_embeddings=tied))
    assert hidden == {f"blocks.0.attention.{name}_proj.weight" for name in "qkvo"} | {
        f"blocks.0.feed_forward.{name}_proj.weight" for name in ("gate", "up", "down")
    }
    assert others == {"embedding.weight", "blocks.0.convolution.taps"} | (set() if tied else {"head.weight"})
    assert {"final_norm.weight", "head.bias", "blocks.0.attention.q_proj.bias"} < vectors
    assert len(hidden | others | vectors) == len(list(build(tie_embeddings=tied).parameters()))


def test_a_step_is_that_of_the_two_optimisers() -> None:
    ours, theirs = build(), build()
    groups = parameter_groups(theirs)
    separate = [
        torch.optim.Muon(groups[0]["params"], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups[1:], lr=0.02, weight_decay=0.1, betas=(0.9, 0.95)),
    ]
    together = MuonAdamW(parameter_groups(ours), lr=0.02, weight_decay=0.1)
    before = nn.utils.parameters_to_vector(ours.parameters()).clone()
    for _ in range(3):
        for model, optimizers in ((ours, [together]), (theirs, separate)):
            model(torch.arange(VOCAB)[None]).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad()
    moved = nn.utils.parameters_to_vector(ours.parameters())
    assert torch.equal(moved, nn.utils.parameters_to_vector(theirs.parameters()))
    assert (moved - before).abs().min() > 0


def fit(model: DiffusionLM, max_steps: int, resume: Path | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader([{"tokens": torch.arange(VOCAB - 1)}] * 8, batch_size=2), ckpt_path=resume)
    return trainer


def test_resuming_and_scheduling(tmp_path: Path) -> None:
    straight, first, second = build(), build(), build()
    rates = [group["lr"] for group in fit(straight, 4).optimizers[0].param_groups]
    assert len(rates) == 3
    assert rates == [pytest.approx(0.02 * (0.1 + 0.9 * 0.5))] * 3  # half-way down the cosine
    fit(first, 2).save_checkpoint(tmp_path / "model.ckpt")
    fit(second, 4, tmp_path / "model.ckpt")
    expected, found = (nn.utils.parameters_to_vector(model.parameters()) for model in (straight, second))
    assert torch.equal(found, expected)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no parameter group is marked by is_hidden"):
        MuonAdamW(nn.Linear(2, 2).parameters())
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"needs torch\.optim\.Muon"):
        MuonAdamW(parameter_groups(build()))
