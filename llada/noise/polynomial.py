"""Powers: alpha(t) = 1 - t^n, and alpha(t) = (1 - t)^n."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise.schedule import NoiseSchedule


def _check_power(power: float) -> None:
    if not 0.0 < power < math.inf:
        raise ValueError(f"power must be above 0 and finite; got {power}")


@dataclass(frozen=True)
class PolynomialSchedule(NoiseSchedule):
    """alpha(t) = 1 - t^n.

    Args:
        power: n; 2 is BD3LM's "square", 1/2 its "square root".

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573.

    Examples:
        >>> import torch
        >>> from llada.noise import PolynomialSchedule
        >>> schedule = PolynomialSchedule(power=2.0)
        >>> schedule.mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.0100, 0.2500, 0.8100])
        >>> schedule.time_at(torch.tensor([0.25]))
        tensor([0.5000])
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        _check_power(self.power)

    def mask_probability(self, t: Tensor) -> Tensor:
        """t^n."""
        return t**self.power

    def loss_weight(self, t: Tensor) -> Tensor:
        """n/t."""
        return self.power / t

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """p^(1/n)."""
        return mask_probability ** (1.0 / self.power)


@dataclass(frozen=True)
class PowerSchedule(NoiseSchedule):
    """alpha(t) = (1 - t)^n.

    Args:
        power: n.

    Examples:
        >>> import torch
        >>> from llada.noise import PowerSchedule
        >>> PowerSchedule(power=2.0).mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.1900, 0.7500, 0.9900])
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        _check_power(self.power)

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t)^n."""
        return (1.0 - t) ** self.power

    def mask_probability(self, t: Tensor) -> Tensor:
        """1 - (1 - t)^n, without cancellation at small t."""
        return -torch.expm1(self.power * torch.log1p(-t))

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """1 - (1 - p)^(1/n)."""
        return -torch.expm1(torch.log1p(-mask_probability) / self.power)
