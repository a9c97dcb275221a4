"""alpha(t) = 1 - (2/pi) arccos(1 - t)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise.schedule import NoiseSchedule


@dataclass(frozen=True)
class ArccosSchedule(NoiseSchedule):
    """alpha(t) = 1 - (2/pi) arccos(1 - t): noise comes fast at first. Its slope is infinite at t = 0.

    Examples:
        >>> import torch
        >>> from llada.noise import ArccosSchedule
        >>> ArccosSchedule().mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.2871, 0.6667, 0.9362])
    """

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-(2/pi) / sqrt(t (2 - t))."""
        return -(2.0 / math.pi) / (t * (2.0 - t)).sqrt()

    def mask_probability(self, t: Tensor) -> Tensor:
        """(4/pi) arctan sqrt(t / (2 - t)): the same angle, exact at both ends."""
        return torch.atan((t / (2.0 - t)).sqrt()) / (0.25 * math.pi)

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """2 sin^2(pi p / 4)."""
        return 2.0 * (0.25 * math.pi * mask_probability).sin().square()
