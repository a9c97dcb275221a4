"""Operations counted from shapes equal those that torch counts while it runs."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.training.flops import ForwardFlops, count_pairs, forward_flops

B, L, V = 2, 6, 11


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 1, "head_dim": 6, "tie_embeddings": True},
        {"num_experts": 4, "experts_per_token": 2, "shared_width": 4},
    ],
)
def test_the_count_is_that_of_torch(options: dict[str, Any]) -> None:
    backbone = BidirectionalTransformer(V, width=8, num_layers=3, num_heads=2, attention="plain", **options)
    flops, tokens = forward_flops(backbone), torch.arange(L).expand(B, L)
    with FlopCounterMode(display=False) as forward:
        backbone(tokens)
    assert B * L * (flops.per_token + flops.per_scored) + B * L * L * flops.per_pair == forward.get_total_flops()
    with FlopCounterMode(display=False) as both:
        backbone(tokens).sum().backward()
    expected = flops.training(B * L, B * L * L, B * L)
    assert expected == pytest.approx(both.get_total_flops(), rel=0.02)  # the router's gradient is sparse


def test_noise_levels_are_seen_once_per_row() -> None:
    backbone = DiffusionTransformer(V, width=8, num_layers=2, num_heads=2, cond_width=16)
    assert forward_flops(backbone) == ForwardFlops(2 * 2 * 12 * 8 * 8, 4 * 8 * 2, 2 * V * 8)


def test_the_formula_of_the_papers() -> None:
    """6 N per token and 12 layers D L for attention, with the head everywhere."""
    with torch.device("meta"):
        llada_8b = BidirectionalTransformer(126_464, 4096, 32, 32, hidden_width=12_288)
    flops, length = forward_flops(llada_8b), 4096
    matrices = sum(p.numel() for p in llada_8b.parameters() if p.ndim == 2) - 126_464 * 4096
    expected = length * (6 * matrices + 12 * 32 * 4096 * length)
    assert flops.training(length, length**2, length) == expected


def test_pairs() -> None:
    tokens = torch.zeros(2, 5)
    assert count_pairs(tokens) == 50
    assert count_pairs(tokens, torch.arange(5).expand(2, 5) < torch.tensor([[2], [5]])) == 4 + 25
    segments = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 2, 3, 3]])
    assert count_pairs(tokens, segment_ids=segments) == (4 + 9) + (1 + 1 + 1 + 4)
    assert count_pairs(tokens, torch.arange(5).expand(2, 5) < 4, segments) == (4 + 4) + (1 + 1 + 1 + 1)
