"""Spread orders: tokens of one call stand as far from one another as they can.

A call draws its tokens independently, which costs sum_i H(x_i) - H(x_1, x_2, ...) nats in the mean: what they would
have told about each other. In text that is most between neighbours. So the open positions 0, 1, ..., n - 1 are sorted
by their number read backwards in binary: 0, 4, 2, 6, 1, 5, 3, 7 for n = 8 (the van der Corput order). However many a
step takes, they are spread over the whole, and between the first n / 2^k of them are 2^k - 1 others each.

Reference: van der Corput, "Verteilungsfunktionen", 1935.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_fields
from llada.rows import bit_reversed
from llada.samplers.order import Margin, Order
from llada.samplers.state import State


def number_in_window(state: State) -> Tensor:
    """(B, M) int64, the candidates' numbers among the positions of the window that were open at first, from 0."""
    columns = torch.arange(state.tokens.shape[1], device=state.tokens.device)
    mine = ~state.given & (columns >= state.start) & (columns < state.stop) | state.open
    return (mine.cumsum(1) - 1).gather(1, state.columns)


@dataclass(frozen=True)
class Spread(Order):
    """Positions far from one another come first, in every step; the model runs only where a token is written.

    Positions are counted over those of the window that were open at first. Works with amounts that count, such as
    ``Quota(steps)`` and ``PerStep(count)``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, Spread, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), Spread())
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [0, 2, 1, 3]
    """

    reads_drawn: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        return -bit_reversed(number_in_window(state), state.tokens.shape[1])


@dataclass(frozen=True)
class Comb(Order):
    """Every stride-th position together, and of those combs the one first that the model is surest of.

    Position i belongs to comb i mod stride, and a comb's score is the mean of its candidates'. With the amount `Tied` a
    step writes a whole comb, so that a canvas takes at most ``stride`` calls.

    Args:
        inner: scores single positions; one that looks at the model's answers.
        stride: number of combs, and distance of the teeth.

    Raises:
        ValueError: if ``stride`` is less than 1, or the inner order doesn't ask the model.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Comb, Tied, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> steps = UnmaskingSampler(Tied(), Comb(stride=2)).iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [step.tokens.tolist() for step in steps]
        [[[1, 2, 1, 2]], [[1, 1, 1, 1]]]
    """

    reads_drawn: ClassVar[bool] = False
    inner: Order = field(default_factory=Margin)
    stride: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stride < 1:
            raise ValueError(f"stride must be 1 or more; got {self.stride}")
        if self.inner.blind:
            raise ValueError(f"{self.inner} doesn't ask the model, so all combs are alike; use Margin(), or Spread()")

    @override
    def __call__(self, state: State) -> Tensor:
        comb = number_in_window(state) % self.stride
        scores = self.inner(state).double().masked_fill(~state.valid, 0.0)
        total, number = (
            torch.zeros(len(comb), self.stride, dtype=torch.float64, device=comb.device).scatter_add(1, comb, each)
            for each in (scores, state.valid.double())
        )
        return (total / number.clamp(min=1.0)).gather(1, comb)
