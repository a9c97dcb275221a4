"""What the models of text share: the network of diffusion and of its next-token twin, and how both are scored."""

from typing import Any

import torch
from torch import Tensor

from examples.claims.text import LENGTH, Text, without_bos
from llada import AutoregressiveLM, BidirectionalTransformer, DiffusionLM
from llada.random import RowRandom
from llada.samplers import LeftToRight, Margin, Order, PerStep, Proposal, UnmaskingSampler

DECODED_ROWS = 48  # held-out rows whose exact likelihoods of decoding are told
ORDERS: dict[str, Order] = {"left to right": LeftToRight(), "margin": Margin()}
"""Orders whose decoding has an exact likelihood."""


def text_backbone(
    text: Text,
    width: int,
    num_layers: int,
    seed: int,
    *,
    twin: bool,
    convolution: int = 5,
    block_length: int | None = None,
) -> BidirectionalTransformer:
    """A fresh network, its head's bias at the log frequencies of the tokens; twins start from the same weights.

    Args:
        text: what is to be read.
        width: D; heads are 16 wide.
        num_layers: blocks.
        seed: of the weights.
        twin: whether it is the next-token model.
        convolution: window of the short convolution; 0 for none.
        block_length: of the backbone; None for rows as a whole.
    """
    torch.manual_seed(seed)
    backbone = BidirectionalTransformer(
        text.vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=width // 16,
        tie_embeddings=True,
        head_bias=True,
        convolution=convolution,
        block_length=block_length,
        causal=twin,
        shift=twin,
    )
    backbone.head.bias.data.copy_(text.log_frequency)
    return backbone


@torch.no_grad()
def nats_per_token(model: DiffusionLM, rows: Tensor, draws: int) -> Tensor:
    """(rows,) exact for the twin; for diffusion the bound, whose noise is the same for every model."""
    parts = []
    for first in range(0, len(rows), 64):
        chosen = torch.arange(first, min(first + 64, len(rows)))
        batch: Any = {"tokens": rows[chosen], "maskable": without_bos(rows[chosen])}
        outputs = [
            model.bound(model.backbone, model.process, batch, random=RowRandom.for_step(0, draw, chosen, len(rows)))
            for draw in range(1 if isinstance(model, AutoregressiveLM) else draws)
        ]
        parts.append(torch.stack([output.nelbo / output.num_tokens for output in outputs]).mean(0))
    return torch.cat(parts)


@torch.no_grad()
def decoded(model: DiffusionLM, rows: Tensor, order: Order) -> list[float]:
    """Exact nats per token of rows, as the sampler of an order would write them, one token per call."""
    sampler = UnmaskingSampler(PerStep(1), order, proposal=Proposal(temperature=1.0))
    found = sampler.likelihood(model.backbone, rows, model.process, given=~without_bos(rows))
    return [round(-float(nats) / (LENGTH - 1), 5) for nats in found.log_likelihood]
