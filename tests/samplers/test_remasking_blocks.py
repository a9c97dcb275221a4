"""Tokens may be masked again in the block that is being decoded, and nowhere else.

Whatever a step masks again to the left of its block is filled again before the block ends, so the finished canvas looks
right in any case; only the steps tell.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import (
    Binomial,
    Blocks,
    CappedRemasking,
    ConfidenceRemasking,
    ForwardBackwardRemasking,
    LoopRemasking,
    Proposal,
    RandomOrder,
    RescaledRemasking,
    Sampler,
    UnmaskingSampler,
    canvas,
)

MASK, SIZE, STEPS = 7, 4, 48
PROCESS = MaskingProcess(mask_token_id=MASK)
RATES = {
    "capped": CappedRemasking(0.3),
    "rescaled": RescaledRemasking(0.4),
    "by confidence": ConfidenceRemasking(),
    "forward and backward": ForwardBackwardRemasking(),
    "loop": LoopRemasking(0.4),
}


def sampler(rates: Any, *, from_start: bool) -> Sampler:
    blocks = Blocks(SIZE, from_start=from_start)
    return UnmaskingSampler(
        Binomial(STEPS), order=RandomOrder(), proposal=Proposal(temperature=1.0), window=blocks, rates=rates
    )


@dataclass(frozen=True)
class Model:
    """Fixed random logits of every place and of the tokens there, so that no two tokens are equally likely."""

    table: Tensor

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.table[torch.arange(tokens.shape[1]), tokens].cumsum(1)


MODEL = Model(torch.randn(32, MASK + 1, MASK + 1, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("name", RATES)
def test_no_step_changes_a_finished_block_or_a_later_one(name: str, from_start: bool) -> None:
    prompts = [[1, 2], [3, 1, 2, MASK, 5, 1, 2], [4, 3, 5]] if not from_start else [[1], [3, 1, 2, MASK, 5], [4]]
    tokens, mask, _ = canvas(prompts, 3 * SIZE - from_start, mask_token_id=MASK, pad_token_id=0)
    columns = torch.arange(tokens.shape[1]) + (0 if from_start else -tokens.shape[1] % SIZE)
    block, current = columns // SIZE, 0
    taken_back = torch.zeros(int(block[-1]) + 1)
    before = tokens
    for step in sampler(RATES[name], from_start=from_start).iterate(MODEL, tokens, PROCESS, attention_mask=mask):
        again = PROCESS.is_masked(step.tokens) & ~PROCESS.is_masked(before)
        blocks = block.expand_as(tokens)[step.changed].unique().tolist()
        assert len(blocks) <= 1  # of all rows
        if blocks:
            assert blocks[0] >= current
            current = blocks[0]
        assert step.changed[again].all()
        assert not (again & ~PROCESS.is_masked(tokens)).any()  # what was given stays
        assert torch.equal(step.tokens[~step.changed], before[~step.changed])
        before = step.tokens
        taken_back.index_add_(0, block, again.sum(0).float())
    assert (taken_back[-3:] >= 2).all()  # in each block of masks; or the test saw nothing
    assert not PROCESS.is_masked(before).any()
