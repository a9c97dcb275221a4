"""Block diffusion: from left to right block by block, and masked diffusion within each block.

    -log p(x_0) = sum_b -log p(x^b | x^{<b})
               <= sum_b E_{l ~ U{1..n_b}} [ (n_b / l) sum_{i in M_b} -log p_theta(x^i | x^b without M_b, x^{<b}) ]

with n_b maskable tokens in block b. Reference: Arriola et al., "Block Diffusion", arXiv 2503.09573.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import MASKS, TIMES, Design, Draw, segments_of
from llada.objectives.exact_counts import (
    ExactMasks,
    check_masks,
    complementary,
    counted_draw,
    exact_gap,
    masked_exactly,
    stacked,
)
from llada.objectives.objective import Batch, model_inputs
from llada.process import Process, check_maskable
from llada.random import RowRandom
from llada.rows import block_numbers, group_sums


@dataclass(frozen=True)
class Blockwise(Design):
    """Block diffusion: from left to right block by block, and masked diffusion with exact counts within each block.

        -log p(x_0) = sum_b -log p(x^b | x^{<b})
                   <= sum_b E_{l ~ U{1..n_b}} [ (n_b / l) sum_{i in M_b} -log p_theta(x^i | x^b without M_b, x^{<b}) ]

    with n_b maskable tokens in block b. Every block has its own noise, and sees the clean blocks before it. All blocks
    are scored in one pass: the model gets the noised row, and the clean row as ``clean`` (see
    `llada.backbones.two_copy`). Blocks of one token give the autoregressive likelihood, one block gives `ExactCounts`.

    Args:
        times: draws u in (0, 1] for every block; the count is ceil(u n_b). Stratified numbers are spread over all
            blocks of the global batch, in random order.
        block_length: tokens per block, counted from the first real token of a row or of a packed segment; the last
            block may be shorter. None: that of the backbone, which is its owner. Only for models that don't tell.

    Raises:
        ValueError: if ``block_length`` is less than 1, or isn't the backbone's.

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.objectives import NELBO, Blockwise
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, rows = BidirectionalTransformer(9, 8, 1, 1, block_length=4), torch.arange(8)[None]
        >>> NELBO(Blockwise())(model, MaskingProcess(8), rows, random=RowRandom.from_seed(0, 1)).num_tokens
        tensor([8])
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)
    block_length: int | None = None

    def __post_init__(self) -> None:
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"block_length must be 1 or more; got {self.block_length}")

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        check_masks(self, process)
        if process.time_conditioned:
            raise ValueError("the blocks of a row have different noise levels; use time_conditioned=False")
        x_0, inputs = batch["tokens"], model_inputs(batch)
        maskable, length = check_maskable(x_0, batch.get("maskable")), self._length(model)
        blocks = block_numbers(x_0, length, **inputs)
        # Packed segments may end anywhere, so a row of L tokens may have L blocks.
        num_blocks = x_0.shape[1] if "segment_ids" in inputs else -(-x_0.shape[1] // length)
        u = self.times(_parts(random.fold_in(TIMES), num_blocks)).view(len(x_0), num_blocks)
        count = (u.gather(1, blocks) * group_sums(maskable, blocks)).ceil()
        draws = [
            replace(
                counted_draw(process, batch, maskable, masks, segments_of(batch), several=True),
                inputs={"clean": x_0, **inputs},
                blocks=blocks,
            )
            for masks in self.masks(maskable, blocks, count, random)
        ]
        return draws[0] if len(draws) == 1 else stacked(*draws)

    def masks(self, maskable: Tensor, blocks: Tensor, count: Tensor, random: RowRandom) -> Sequence[ExactMasks]:
        """The masks of each copy of the rows; arguments as those of `masked_exactly`."""
        return [masked_exactly(maskable, blocks, count, random.fold_in(MASKS))]

    def _length(self, model: Denoiser) -> int:
        own, of_model = self.block_length, model.block_length
        if own is not None and of_model is not None and own != of_model:
            raise ValueError(
                f"Blockwise(block_length={own}) would score blocks that the backbone, whose block_length is "
                f"{of_model}, doesn't have; leave it out, then it is the backbone's"
            )
        length = of_model if own is None else own
        if length is None:
            raise ValueError(
                "the backbone has no block_length, so it doesn't know blocks; build it with one, such as "
                "BidirectionalTransformer(..., block_length=32), or use another design, such as ExactCounts()"
            )
        return length

    @override
    def bound_gap(self, process: Process) -> str | None:
        return exact_gap(process, self.times)


@dataclass(frozen=True)
class ComplementaryBlocks(Blockwise):
    """`Blockwise` with every row twice: in each block, what one copy hides, the other shows.

    As in `ComplementaryPairs` the second mask is the complement of the first and one token more, so either copy alone
    is the estimate of `Blockwise`, and every token is learned from in every step. Both copies see the same clean row.
    Fast-dLLM v2 and LLaDA2.0 take the complement alone, whose counts don't give the bound: it never hides all of a
    block while the first copy hides something. Arguments and errors as those of `Blockwise`.

    Reference:
        Wu et al., "Fast-dLLM v2", arXiv 2509.26328; Bie et al., "LLaDA2.0", arXiv 2512.15745.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.denoiser import as_denoiser
        >>> from llada.objectives import ComplementaryBlocks
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, rows = BidirectionalTransformer(9, 8, 1, 1, block_length=4), {"tokens": torch.arange(8)[None]}
        >>> draw = ComplementaryBlocks()(as_denoiser(model), MaskingProcess(8), rows, random=RowRandom.from_seed(0, 1))
        >>> draw.tokens
        tensor([[8, 8, 2, 3, 4, 8, 8, 8],
                [0, 8, 8, 8, 8, 5, 6, 8]])
    """

    @override
    def masks(self, maskable: Tensor, blocks: Tensor, count: Tensor, random: RowRandom) -> Sequence[ExactMasks]:
        return complementary(maskable, blocks, count, random)


def _parts(random: RowRandom, num_parts: int) -> RowRandom:
    """Streams for the parts of every row, (B * num_parts,), which know their places in the global batch."""
    seeds = (random.uniform(num_parts) * 2.0**52).long()
    rows = random.rows[:, None] * num_parts + torch.arange(num_parts, device=seeds.device)
    streams = RowRandom.from_seed(seeds.flatten(), seeds.numel(), seeds.device)
    return replace(streams, shared_key=random.shared_key, rows=rows.flatten(), num_rows=random.num_rows * num_parts)
