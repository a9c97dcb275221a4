"""The bound of block diffusion: from left to right block by block, and masked diffusion within each block.

    -log p(x_0) = sum_b -log p(x^b | x^{<b})
               <= sum_b E_{l ~ U{1..n_b}} [ (n_b / l) sum_{i in M_b} -log p_theta(x^i | x^b without M_b, x^{<b}) ]

with n_b maskable tokens in block b, l of them masked. Every block has its own noise, and sees the clean blocks before
it. All blocks are scored in one pass: the model gets the noised row, and the clean row as ``clean`` (see
`llada.backbones.two_copy`). Blocks of one token give the autoregressive likelihood, one block gives `ExactCountNELBO`.

Reference: Arriola et al., "Block Diffusion", arXiv 2503.09573.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llada.noise import LinearSchedule, StratifiedTimes, TimeSampler
from llada.objectives.normaliser import Normaliser, PerToken
from llada.objectives.objective import MASKS, TIMES, Objective, ObjectiveOutput, score
from llada.objectives.weight import BoundWeight, Weight
from llada.process import MaskingProcess, Noised, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class BlockNELBO(Objective):
    """Block diffusion with exact counts: the loss for a backbone of the same ``block_length``.

    Args:
        block_length: tokens per block, counted from the first real token of a row or of a packed segment. The last
            block may be shorter.
        times: draws u in (0, 1] for every block; the count is ceil(u n_b). Stratified numbers are spread over all
            blocks of the global batch, in random order.
        weight: of a masked token in the loss, as for a linear schedule at t = the block's share of masked tokens,
            whatever the process's own schedule. `BoundWeight` is n_b / l.
        normaliser: what the loss is divided by.

    Raises:
        ValueError: if ``block_length`` is less than 1, or the process is time-conditioned, which has no meaning for a
            row of several noise levels.
    """

    block_length: int
    times: TimeSampler = field(default_factory=StratifiedTimes)
    weight: Weight = field(default_factory=BoundWeight)
    normaliser: Normaliser = field(default_factory=PerToken)

    def __post_init__(self) -> None:
        if self.block_length < 1:
            raise ValueError(f"block_length must be 1 or more; got {self.block_length}")

    def __call__(
        self,
        model: Any,
        process: MaskingProcess,
        x_0: Tensor,
        maskable: Tensor | None = None,
        *,
        random: RowRandom,
        **model_kwargs: Any,
    ) -> ObjectiveOutput:
        """See `Objective`; ``t`` is the share of masked tokens in the row."""
        if process.time_conditioned:
            raise ValueError("the blocks of a row have different noise levels; use time_conditioned=False")
        maskable = check_maskable(x_0, maskable)
        block = block_index(x_0, self.block_length, **model_kwargs)
        # Packed segments may end anywhere, so a row of L tokens may have L blocks.
        num_blocks = (
            x_0.shape[1] if model_kwargs.get("segment_ids") is not None else -(-x_0.shape[1] // self.block_length)
        )
        numbers = self.times(_parts(random.fold_in(TIMES), num_blocks)).view(len(x_0), num_blocks)
        noised, share = _corrupt(process, x_0, maskable, block, numbers, random.fold_in(MASKS))
        # Weights by row would mix blocks, so each block is a row of the weight; `share` is constant within one.
        weight = self.weight(LinearSchedule(), share.flatten(), noised.scored.flatten()[:, None]).view(x_0.shape)
        return score(
            model,
            process,
            x_0,
            maskable,
            noised,
            weight=weight,
            bound_weight=1.0 / share,
            normaliser=self.normaliser,
            t=noised.scored.sum(1) / maskable.sum(1).clamp(min=1).double(),
            clean=x_0,
            **model_kwargs,
        )


def _corrupt(
    process: MaskingProcess, x_0: Tensor, maskable: Tensor, block: Tensor, numbers: Tensor, random: RowRandom
) -> tuple[Noised, Tensor]:
    """Mask ceil(u n) of the n maskable tokens of each block.

    Args:
        process: knows the mask token.
        x_0: (B, L).
        maskable: (B, L) bool.
        block: (B, L) integers, not falling along a row.
        numbers: u in (0, 1] of each block, (B, number of blocks) float64.
        random: the rows' streams.

    Returns:
        The noised rows, and for each token the share of its block that is masked, (B, L) float64; 1 where none can be.
    """
    size = torch.zeros_like(numbers).scatter_add(1, block, maskable.double())
    count = (numbers * size).ceil()
    # Sorted by block, maskable tokens first, then by chance: a token's place behind its block's first is its rank.
    chance = 0.5 * random.uniform(x_0.shape[1]) + 0.5 * ~maskable
    place = (block + chance).argsort(1).argsort(1)
    rank = place - torch.searchsorted(block, block)
    masked = maskable & (rank < count.gather(1, block))
    share = (count / size.clamp(min=1.0)).gather(1, block)
    return Noised(x_0.masked_fill(masked, process.mask_token_id), masked), share.where(share > 0.0, 1.0)


def block_index(
    tokens: Tensor,
    block_length: int,
    attention_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Number of each token's block within its row, (B, L) int64, rising from 0; left padding counts to block 0.

    Args:
        tokens: (B, L).
        block_length: tokens per block.
        attention_mask: (B, L) bool, true for real tokens.
        segment_ids: (B, L) integers of packed rows; blocks begin anew with each segment.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    begins = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    if segment_ids is not None:
        begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
        first = torch.where(begins, place, 0).cummax(1).values
    elif attention_mask is not None:
        first = (attention_mask.long().cumsum(1) == 0).sum(1, keepdim=True)
    else:
        first = torch.zeros_like(place)
    begins |= (place - first) % block_length == 0
    begins &= place >= first
    return (begins.long().cumsum(1) - 1).clamp(min=0)


def _parts(random: RowRandom, num_parts: int) -> RowRandom:
    """Streams for the parts of every row, (B * num_parts,), which know their places in the global batch."""
    seeds = (random.uniform(num_parts) * 2.0**52).long()
    rows = random.rows[:, None] * num_parts + torch.arange(num_parts, device=seeds.device)
    streams = RowRandom.from_seed(seeds.flatten(), seeds.numel(), seeds.device)
    return replace(streams, shared_key=random.shared_key, rows=rows.flatten(), num_rows=random.num_rows * num_parts)
