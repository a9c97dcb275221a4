"""The probability of a proposed token."""

import torch

from llada.samplers.state import token_probability


def test_a_known_maximum_saves_a_pass_and_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, dtype in ((7, torch.float32), (3000, torch.float32), (500, torch.float64)):
        logits = 8 * torch.randn(3, 4, size, dtype=dtype, generator=generator)
        logits[..., -1] = -torch.inf
        best = logits.max(-1)
        expected = token_probability(logits, best.indices)
        assert torch.equal(token_probability(logits, best.indices, best.values), expected)
