"""The cosine schedules: MaskGIT's, MDLM's and its square."""

import math
from dataclasses import dataclass

from torch import Tensor

from llada.noise.schedule import NoiseSchedule, check_residue

HALF_PI = math.pi / 2


def _cosine(t: Tensor) -> Tensor:
    """cos(pi t / 2) as a sine of what is left to 1: exactly 0 at t = 1, where cos(pi/2) rounds to either sign."""
    return (HALF_PI * (1.0 - t)).sin()


@dataclass(frozen=True)
class CosineSchedule(NoiseSchedule):
    """alpha(t) = 1 - sin(pi t / 2): MaskGIT's schedule, in which sampling uncovers few tokens first and many last.

    Reference:
        Chang et al., "MaskGIT", arXiv 2202.04200: cos(pi r / 2) of the tokens are masked at r = 1 - t.

    Examples:
        >>> import torch
        >>> from llada.noise import CosineSchedule
        >>> schedule = CosineSchedule()
        >>> schedule.mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.1564, 0.7071, 0.9877])
        >>> schedule.loss_weight(torch.tensor([0.5]))
        tensor([1.5708])
    """

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-(pi/2) cos(pi t / 2)."""
        return -HALF_PI * _cosine(t)

    def mask_probability(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return (HALF_PI * t).sin()

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """(2/pi) arcsin p."""
        return mask_probability.asin() / HALF_PI


@dataclass(frozen=True)
class MDLMCosineSchedule(NoiseSchedule):
    """alpha(t) = eps + (1 - eps) cos(pi t / 2): many clean tokens for long.

    Args:
        eps: share of clean tokens at t = 1.

    Reference:
        arXiv 2406.07524, appendix E, and the released ``noise_schedule.py``.

    Examples:
        >>> import torch
        >>> from llada.noise import MDLMCosineSchedule
        >>> MDLMCosineSchedule().mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.0123, 0.2926, 0.8427])
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_residue(self.eps)

    def alpha(self, t: Tensor) -> Tensor:
        """Value eps + (1 - eps) cos(pi t / 2)."""
        return self.eps + (1.0 - self.eps) * _cosine(t)

    def mask_probability(self, t: Tensor) -> Tensor:
        """2 (1 - eps) sin^2(pi t / 4)."""
        return 2.0 * (1.0 - self.eps) * (0.5 * HALF_PI * t).sin().square()

    def loss_weight(self, t: Tensor) -> Tensor:
        """(pi/2) cot(pi t / 4)."""
        return HALF_PI / (0.5 * HALF_PI * t).tan()

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """(4/pi) arcsin sqrt(p / (2 (1 - eps)))."""
        return (mask_probability / (2.0 * (1.0 - self.eps))).clamp(max=1.0).sqrt().asin() / (0.5 * HALF_PI)


@dataclass(frozen=True)
class CosineSquaredSchedule(NoiseSchedule):
    """alpha(t) = eps + (1 - eps) cos^2(pi t / 2).

    Args:
        eps: share of clean tokens at t = 1.

    Reference:
        arXiv 2406.07524, appendix E ("cosine squared").

    Examples:
        >>> import torch
        >>> from llada.noise import CosineSquaredSchedule
        >>> CosineSquaredSchedule().mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.0244, 0.4995, 0.9746])
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_residue(self.eps)

    def alpha(self, t: Tensor) -> Tensor:
        """Value eps + (1 - eps) cos^2(pi t / 2)."""
        return self.eps + (1.0 - self.eps) * _cosine(t).square()

    def mask_probability(self, t: Tensor) -> Tensor:
        """(1 - eps) sin^2(pi t / 2)."""
        return (1.0 - self.eps) * (HALF_PI * t).sin().square()

    def loss_weight(self, t: Tensor) -> Tensor:
        """Closed form pi cot(pi t / 2)."""
        return math.pi * _cosine(t) / (HALF_PI * t).sin()

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """(2/pi) arcsin sqrt(p / (1 - eps))."""
        return (mask_probability / (1.0 - self.eps)).clamp(max=1.0).sqrt().asin() / HALF_PI
