"""alpha(t) = 1 - log2(1 + t)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.noise.schedule import NoiseSchedule


@dataclass(frozen=True)
class LogarithmicSchedule(NoiseSchedule):
    """alpha(t) = 1 - log2(1 + t): BD3LM's "log".

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573.

    Examples:
        >>> import torch
        >>> from llada.noise import LogarithmicSchedule
        >>> LogarithmicSchedule().mask_probability(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.1375, 0.5850, 0.9260])
    """

    def mask_probability(self, t: Tensor) -> Tensor:
        """log2(1 + t)."""
        return torch.log1p(t) / math.log(2.0)

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """2^p - 1."""
        return torch.expm1(mask_probability * math.log(2.0))
