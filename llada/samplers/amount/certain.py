"""Counts that follow from how sure the model is, and from where in a block the candidates stand.

Shapes: B rows, M candidates per row.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.amount.amount import Amount, best, take_best
from llada.samplers.order import Measure
from llada.samplers.state import State


@dataclass(frozen=True)
class ThresholdOrQuota(Amount):
    """LLaDA2's rule: all candidates above a confidence, if they are at least as many as a quota; else the quota.

    The quota is LLaDA's for a block without a prompt: n // S, and one more in each of the first n mod S steps, of n
    positions in S steps. It is the same in a block that is partly filled.

    Args:
        steps_per_block: S, most steps of a block; None for one per position.
        threshold: a candidate passes if its probability is above it.
        block_length: n; that of the sampler's blocks.

    Raises:
        ValueError: if ``steps_per_block`` or ``block_length`` is less than 1.

    Reference:
        Bie et al., "LLaDA2.0", arXiv 2512.15745; the released ``generate``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, ThresholdOrQuota, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(ThresholdOrQuota(steps_per_block=2, block_length=4), window=Blocks(4))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).calls
        tensor([4])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    steps_per_block: int | None = 32
    threshold: float = 0.95
    block_length: int = 32

    def __post_init__(self) -> None:
        if self.block_length < 1 or (self.steps_per_block is not None and self.steps_per_block < 1):
            raise ValueError(
                "steps_per_block and block_length must be 1 or more; "
                f"got {self.steps_per_block} and {self.block_length}"
            )

    @override
    def check(self, sampler: Any) -> None:
        super().check(sampler)
        length = getattr(sampler.window, "block_length", self.block_length)
        if length != self.block_length:
            raise ValueError(
                f"ThresholdOrQuota counts on blocks of {self.block_length}, but the window has blocks of {length}; "
                "give both the same block_length"
            )

    @override
    def __call__(self, state: State) -> Tensor:
        above = state.valid & (state.scores > self.threshold)
        steps = self.block_length if self.steps_per_block is None else self.steps_per_block
        share = max(1, self.block_length // steps + (state.step < self.block_length % steps))
        enough = above.sum(1, keepdim=True) >= share
        return torch.where(enough, above, take_best(state.scores, state.valid, torch.full_like(state.left, share)))


@dataclass(frozen=True)
class Hierarchy(Amount):
    """All candidates above a confidence, and the best of every run of neighbouring masks that is not too unsure.

    Tokens far apart hardly depend on one another, so a run needs less certainty; writing in its middle halves it.

    Args:
        threshold: a candidate above this probability is taken.
        low_threshold: the best of a run is taken above this one. The best of all is taken always.

    Reference:
        Ma et al., "dInfer", arXiv 2510.08666.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Hierarchy, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(Hierarchy(threshold=0.9, low_threshold=0.4))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([2])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    threshold: float = 0.9
    low_threshold: float = 0.4

    @override
    def __call__(self, state: State) -> Tensor:
        scores = state.scores.masked_fill(~state.valid, -torch.inf)
        begins = torch.ones_like(state.valid)
        begins[:, 1:] = state.columns.diff(dim=1) != 1
        run = begins.cumsum(1) - 1
        top = torch.full_like(scores, -torch.inf).scatter_reduce(1, run, scores, "amax").gather(1, run)
        index = torch.arange(scores.shape[1], device=scores.device).expand_as(run)
        tied = torch.where(scores == top, index, scores.shape[1])
        first = torch.full_like(run, scores.shape[1]).scatter_reduce(1, run, tied, "amin").gather(1, run)
        of_runs = (index == first) & (scores > self.low_threshold)
        return best(state) | (state.valid & (of_runs | (scores > self.threshold)))


@dataclass(frozen=True)
class LocalLeap(Amount):
    """All candidates above a confidence, and those near one of them above a lower one.

    What the model is sure of settles its neighbourhood.

    Args:
        threshold: a candidate with this probability is taken, and is an anchor. The best is taken always.
        relaxed_threshold: a candidate near an anchor is taken at this one.
        radius: columns on each side of an anchor that are near.

    Raises:
        ValueError: if ``radius`` is negative.

    Reference:
        "Accelerating Diffusion LLM Inference via Local Determinism Propagation", arXiv 2510.07081.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import LocalLeap, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(LocalLeap(threshold=0.9, relaxed_threshold=0.7, radius=1))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([1])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    threshold: float = 0.9
    relaxed_threshold: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(f"radius must be 0 or more; got {self.radius}")

    @override
    def __call__(self, state: State) -> Tensor:
        sure = state.valid & (state.scores >= self.threshold)
        anchors = torch.zeros_like(state.tokens, dtype=torch.float32).scatter(1, state.columns, sure.float())
        near = torch.nn.functional.max_pool1d(anchors[:, None], 2 * self.radius + 1, 1, self.radius)[:, 0] > 0
        relaxed = near.gather(1, state.columns) & (state.scores >= self.relaxed_threshold)
        return best(state) | sure | (state.valid & relaxed)
