"""Training weights: how much the divergence of a scored token counts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.objectives.design import Draw
from llada.process import Process


class Weight(ABC):
    """A weight per row, or per token."""

    @abstractmethod
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        """The weights.

        Args:
            process: the noise process.
            draw: the corrupted batch of N rows: its tokens, clean and noised, times, segments and the bound's weight.

        Returns:
            (N, 1) or (N, L) float64.
        """


@dataclass(frozen=True)
class BoundWeight(Weight):
    """The weight that makes the loss a bound on the likelihood: 1/t for LLaDA, n / l where counts are exact.

    Examples:
        >>> from llada.objectives import NELBO, BoundWeight
        >>> from llada.process import MaskingProcess
        >>> NELBO(weight=BoundWeight()).bound_gap(MaskingProcess(4)) is None
        True
    """

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return draw.bound_weight


@dataclass(frozen=True)
class UnitWeight(Weight):
    """Every scored token counts the same, as in masked language models.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, PerScored, UnitWeight
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> masked_language_model = NELBO(weight=UnitWeight(), normaliser=PerScored())
        >>> model, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.zeros(8, 6, dtype=torch.int64)
        >>> output = masked_language_model(model, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 8))
        >>> round(float(output.loss), 2)  # log 4, however many are masked
        1.39
    """

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return torch.ones_like(draw.t)


@dataclass(frozen=True)
class ClippedWeight(Weight):
    """Another weight, where it isn't larger than a limit: less variance at low noise. Not a bound.

    Args:
        limit: the largest weight, above 0.
        weight: what is clipped.

    Raises:
        ValueError: if ``limit`` isn't above 0.

    Reference:
        "Clip" in von Rütte et al., arXiv 2503.04482, section 3.4, with the bound's weight.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, ClippedWeight
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> uniform, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.arange(4).expand(64, 4)
        >>> objective = NELBO(weight=ClippedWeight(limit=2.0))
        >>> output = objective(uniform, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 64))
        >>> round(float(output.loss), 2)  # log 4 = 1.39 without the limit
        1.02
    """

    limit: float
    weight: Weight = field(default_factory=BoundWeight)

    def __post_init__(self) -> None:
        if not self.limit > 0.0:
            raise ValueError(f"limit, the largest weight, must be above 0; got {self.limit}")

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return self.weight(process, draw).clamp(max=self.limit)


@dataclass(frozen=True)
class DynamicWeight(Weight):
    """GIDD's: 2 for a mask, 1 for a random token, and for a kept one the odds u / a of the noise. Not a bound.

    Here a is the kept share and u that of each random token: what a kept token would weigh in the bound if a random one
    weighed 1. Under GIDD's schedule these odds are (B / K) exp(-log-SNR / 2).

    Args:
        limit: the largest weight.

    Raises:
        ValueError: if ``limit`` isn't above 0, or the process draws no random tokens.

    Reference:
        von Rütte et al., arXiv 2503.04482, section 3.4.

    Examples:
        >>> import torch
        >>> from llada.objectives import DynamicWeight, IndependentMasks
        >>> from llada.process import HybridProcess
        >>> from llada.random import RowRandom
        >>> process, rows = HybridProcess(mask_token_id=4, num_tokens=4), torch.zeros(2, 6, dtype=torch.int64)
        >>> draw = IndependentMasks()(None, process, {"tokens": rows}, random=RowRandom.from_seed(0, 2))
        >>> draw.tokens[1]
        tensor([4, 0, 0, 4, 4, 4])
        >>> [round(weight, 2) for weight in DynamicWeight()(process, draw)[1].tolist()]
        [2.0, 0.08, 0.08, 2.0, 2.0, 2.0]
    """

    limit: float = 2.0

    def __post_init__(self) -> None:
        if not self.limit > 0.0:
            raise ValueError(f"limit, the largest weight, must be above 0; got {self.limit}")

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        law = process.noise_law(draw.t)
        if law is None:
            raise ValueError(f"DynamicWeight tells kept tokens from random ones, and {process} draws none")
        other = torch.where(process.is_masked(draw.tokens), 2.0, 1.0).double()
        return torch.where(draw.tokens == draw.x_0, 1.0 / law.odds, other).clamp(max=self.limit)


@dataclass(frozen=True)
class ContextWeight(Weight):
    """Tokens with visible neighbours count more: CART, the context-adaptive reweighting of Dream.

    w_i = sum over visible j != i of (1/2) p (1 - p)^(|i - j| - 1), j in the same row, packed segment or block. Not a
    bound.

    Args:
        p: parameter of the geometric distribution, in (0, 1].

    Raises:
        ValueError: if ``p`` isn't in (0, 1].

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487.

    Examples:
        >>> import torch
        >>> from llada.objectives import ContextWeight, IndependentMasks
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> process, rows = MaskingProcess(4), torch.zeros(2, 6, dtype=torch.int64)
        >>> draw = IndependentMasks()(None, process, {"tokens": rows}, random=RowRandom.from_seed(0, 2))
        >>> draw.tokens[1]  # one neighbour is visible
        tensor([4, 0, 4, 4, 4, 4])
        >>> ContextWeight(p=0.5)(process, draw)[1].tolist()
        [0.25, 0.0, 0.25, 0.125, 0.0625, 0.03125]
    """

    p: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"p must be in (0, 1]; got {self.p}")

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        index = torch.arange(draw.x_0.shape[1], device=draw.x_0.device)
        distance = (index[:, None] - index[None, :]).abs()
        closeness = 0.5 * self.p * (1.0 - self.p) ** (distance - 1).clamp(min=0).double()
        closeness = closeness.masked_fill(distance == 0, 0.0)
        visible = (~draw.scored).double()
        if "attention_mask" in draw.inputs:  # padding is no context
            visible = visible * draw.inputs["attention_mask"]
        groups = draw.segments if draw.blocks is None else draw.blocks
        if groups is None:
            return visible @ closeness
        same = groups[:, :, None] == groups[:, None, :]
        return torch.einsum("bj,bij,ij->bi", visible, same.double(), closeness)
