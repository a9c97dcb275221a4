"""Lists of everything, over which the property tests run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise import (
    ArccosSchedule,
    CosineSchedule,
    CosineSquaredSchedule,
    GeometricSchedule,
    LinearSchedule,
    LinearSigmaSchedule,
    LogarithmicSchedule,
    MDLMCosineSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    PowerSchedule,
)


@dataclass(frozen=True)
class AlphaAlone(NoiseSchedule):
    """What a user writes: the curve and nothing else."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-t / (1.0 - t).clamp(min=1e-300)) if t.dtype == torch.float64 else torch.exp(-t / (1.0 - t))


ALL_SCHEDULES: list[NoiseSchedule] = [
    LinearSchedule(),
    LinearSchedule(eps=1e-3),
    CosineSchedule(),
    MDLMCosineSchedule(),
    CosineSquaredSchedule(),
    PolynomialSchedule(2.0),
    PolynomialSchedule(0.5),
    PowerSchedule(2.0),
    LogarithmicSchedule(),
    ArccosSchedule(),
    GeometricSchedule(),
    LinearSigmaSchedule(1e-3, 7.0),
    AlphaAlone(),
]
