"""A curve stretched to reach from exactly 1 to exactly 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise.schedule import NoiseSchedule


@dataclass(frozen=True)
class RescaledSchedule(NoiseSchedule):
    """alpha(t) = (beta(t) - beta(1)) / (beta(0) - beta(1)) for another schedule's curve beta.

    It has the shape of beta without its residual noise and signal, so its bound lacks nothing. Differences are taken in
    float64, since they cancel near both ends.

    Args:
        schedule: the curve beta, such as `GeometricSchedule`.

    Examples:
        >>> import torch
        >>> from llada.noise import LinearSigmaSchedule, RescaledSchedule
        >>> half = LinearSigmaSchedule(sigma_max=1.0)
        >>> half.mask_probability(torch.tensor([1.0], dtype=torch.float64))
        tensor([0.6321], dtype=torch.float64)
        >>> RescaledSchedule(half).mask_probability(torch.tensor([1.0], dtype=torch.float64))
        tensor([1.], dtype=torch.float64)
    """

    schedule: NoiseSchedule

    def alpha(self, t: Tensor) -> Tensor:
        """(beta(t) - beta(1)) / (beta(0) - beta(1))."""
        start, now, end = (self.schedule.alpha(time) for time in _span(t))
        return ((now - end) / (start - end)).to(t.dtype)

    def alpha_prime(self, t: Tensor) -> Tensor:
        """beta'(t) / (beta(0) - beta(1))."""
        start, now, end = _span(t)
        fall = self.schedule.alpha(start) - self.schedule.alpha(end)
        return (self.schedule.alpha_prime(now) / fall).to(t.dtype)

    def mask_probability(self, t: Tensor) -> Tensor:
        """(p(t) - p(0)) / (p(1) - p(0)) with p = 1 - beta."""
        start, now, end = (self.schedule.mask_probability(time) for time in _span(t))
        return ((now - start) / (end - start)).to(t.dtype)

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """When beta's masked share is p(0) + (p(1) - p(0)) times the wanted one."""
        start, share, end = _span(mask_probability)
        low, high = self.schedule.mask_probability(start), self.schedule.mask_probability(end)
        return self.schedule.time_at(low + (high - low) * share).to(mask_probability.dtype)


def _span(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """0, the value and 1 in float64. All of one shape, so that the ends come out equal to the last bit."""
    value = value.to(torch.float64)
    return torch.zeros_like(value), value, torch.ones_like(value)
