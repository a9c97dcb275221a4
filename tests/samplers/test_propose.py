"""The probability of a proposed token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import Confidence, Quota, UnmaskingSampler, state
from llada.samplers.state import token_probability


def test_a_known_maximum_saves_a_pass_and_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, dtype in ((7, torch.float32), (3000, torch.float32), (500, torch.float64)):
        logits = 8 * torch.randn(3, 4, size, dtype=dtype, generator=generator)
        logits[..., -1] = -torch.inf
        best = logits.max(-1)
        expected = token_probability(logits, best.indices)
        assert torch.equal(token_probability(logits, best.indices, best.values), expected)


def test_a_step_computes_the_probabilities_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order ranks by them, and what was written shows them: a pass over the vocabulary each, if computed again."""
    asked = []

    def counted(*arguments: Any) -> Tensor:
        asked.append(arguments[0].shape)
        return token_probability(*arguments)

    monkeypatch.setattr(state, "token_probability", counted)
    model = BidirectionalTransformer(9, 8, 1, 2).eval()
    sample = UnmaskingSampler(Quota(4), Confidence())(model, torch.full((2, 4), 8), MaskingProcess(8))
    assert len(asked) == 4 == int(sample.calls.max())
