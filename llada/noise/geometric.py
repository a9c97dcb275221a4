"""Schedules that are given by their total noise: alpha(t) = exp(-sigma(t))."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.noise.schedule import NoiseSchedule


@dataclass(frozen=True)
class _SigmaSchedule(NoiseSchedule, ABC):
    """A curve that is given by its total noise sigma(t), which rises from ``sigma_min`` to ``sigma_max``."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "need 0 <= sigma_min < sigma_max, both finite; "
                f"got sigma_min={self.sigma_min} and sigma_max={self.sigma_max}"
            )

    @abstractmethod
    @override
    def sigma(self, t: Tensor) -> Tensor: ...

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-sigma(t))."""
        return torch.exp(-self.sigma(t))

    def mask_probability(self, t: Tensor) -> Tensor:
        """-expm1(-sigma(t))."""
        return -torch.expm1(-self.sigma(t))


@dataclass(frozen=True)
class GeometricSchedule(_SigmaSchedule):
    """sigma(t) = sigma_min^(1-t) sigma_max^t: SEDD's geometric noise.

    Residual noise: alpha(0) = exp(-sigma_min) is a little below 1; see `NoiseSchedule`.

    Args:
        sigma_min: noise at t = 0, above 0.
        sigma_max: noise at t = 1; below about 7 a visible share of the tokens stays clean.

    Reference:
        Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", arXiv 2310.16834,
        section 5.

    Examples:
        >>> import torch
        >>> from llada.noise import GeometricSchedule
        >>> schedule = GeometricSchedule(sigma_min=1e-3, sigma_max=10.0)
        >>> schedule.sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000e-03, 1.0000e-01, 1.0000e+01])
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min == 0.0:
            raise ValueError("a geometric curve can't start at sigma_min=0; take a small one, such as 1e-4")

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_min (sigma_max / sigma_min)^t."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """ln(sigma / sigma_min) / ln(sigma_max / sigma_min) at sigma = -log(1 - p)."""
        sigma = -torch.log1p(-mask_probability)
        return (sigma / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class LinearSigmaSchedule(_SigmaSchedule):
    """sigma(t) = sigma_min + t (sigma_max - sigma_min): MDLM's "linear" noise, which isn't LLaDA's linear schedule.

    Residual noise: alpha(0) = exp(-sigma_min) is below 1 unless ``sigma_min`` is 0; see `NoiseSchedule`.

    Args:
        sigma_min: noise at t = 0, 0 or more.
        sigma_max: noise at t = 1.

    Reference:
        The released ``noise_schedule.py`` of arXiv 2406.07524.

    Examples:
        >>> import torch
        >>> from llada.noise import LinearSigmaSchedule
        >>> schedule = LinearSigmaSchedule(sigma_max=10.0)
        >>> schedule.sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ 0.,  5., 10.])
        >>> schedule.mask_probability(torch.tensor([0.5]))
        tensor([0.9933])
    """

    sigma_min: float = 0.0
    sigma_max: float = 10.0

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_min + t (sigma_max - sigma_min)."""
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """(sigma - sigma_min) / (sigma_max - sigma_min) at sigma = -log(1 - p)."""
        sigma = -torch.log1p(-mask_probability)
        return (sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)
