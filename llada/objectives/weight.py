"""Training weights: how much the divergence of a scored token counts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

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
    """The weight that makes the loss a bound on the likelihood: 1/t for LLaDA, n / l where counts are exact."""

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return draw.bound_weight


@dataclass(frozen=True)
class UnitWeight(Weight):
    """Every scored token counts the same, as in masked language models."""

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return torch.ones_like(draw.t)


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
