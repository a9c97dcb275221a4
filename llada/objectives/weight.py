"""Training weights: how much the cross-entropy of a masked token counts at each noise level."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise import NoiseSchedule


class Weight(ABC):
    """A weight per row, or per token."""

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """The weights.

        Args:
            schedule: alpha(t).
            t: (B,) float64, or (B, L).
            masked: (B, L) bool.

        Returns:
            (B,) or (B, L) float64.
        """

    def for_segments(self, numbers: Tensor) -> "Weight":
        """The same for packed rows, in which every segment stands for a row.

        Args:
            numbers: (B, L) int64, segments counted from 0 in each row.
        """
        return self


@dataclass(frozen=True)
class BoundWeight(Weight):
    """w(t) = -alpha'(t) / (1 - alpha(t)), which makes the loss a bound on the likelihood; 1/t for LLaDA.

    Reference:
        arXiv 2406.07524, equation 11; arXiv 2502.09992, equation 3.
    """

    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """See `Weight`."""
        return schedule.loss_weight(t)


@dataclass(frozen=True)
class UnitWeight(Weight):
    """Every masked token counts the same, as in masked language models."""

    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """See `Weight`."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class ContextWeight(Weight):
    """Tokens with visible neighbours count more: CART, the context-adaptive reweighting of Dream.

    w_i = sum over visible j != i of (1/2) p (1 - p)^(|i - j| - 1). Not a bound.

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

    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """See `Weight`."""
        return (~masked).double() @ self.closeness(masked)

    def closeness(self, masked: Tensor) -> Tensor:
        """How much a visible token at each distance counts, (L, L) float64, for rows (B, L)."""
        index = torch.arange(masked.shape[1], device=masked.device)
        distance = (index[:, None] - index[None, :]).abs()
        closeness = 0.5 * self.p * (1.0 - self.p) ** (distance - 1).clamp(min=0).double()
        return closeness.masked_fill(distance == 0, 0.0)

    def for_segments(self, numbers: Tensor) -> Weight:
        """Neighbours in other segments don't count."""
        return _ContextWithin(self, numbers)


@dataclass(frozen=True, eq=False)
class _ContextWithin(Weight):
    context: ContextWeight
    numbers: Tensor

    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """See `Weight`."""
        same = self.numbers[:, :, None] == self.numbers[:, None, :]
        return torch.einsum("bj,bij,ij->bi", (~masked).double(), same.double(), self.context.closeness(masked))
