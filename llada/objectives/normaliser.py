"""What a loss is divided by. The choices in use differ, and they change what the number means.

A loss is ``sum_b scale_b * (weighted cross-entropy of row b) / denominator``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.objectives.segments import segment_sums


class Normaliser(ABC):
    """Gives every row a scale, and the batch a denominator."""

    @abstractmethod
    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and denominator.

        Args:
            maskable: (B, L) bool.
            masked: (B, L) bool.

        Returns:
            scale (B,), or (B, L), float64 and denominator () float64, never below 1.
        """

    def for_segments(self, numbers: Tensor) -> "Normaliser":
        """The same for packed rows, in which every segment stands for a row.

        Args:
            numbers: (B, L) int64, segments counted from 0 in each row.
        """
        return self


def _ones(maskable: Tensor) -> Tensor:
    return torch.ones(len(maskable), dtype=torch.float64, device=maskable.device)


def _at_least_one(count: Tensor) -> Tensor:
    return count.to(torch.float64).clamp(min=1.0)


@dataclass(frozen=True)
class PerPosition(Normaliser):
    """Divide by B * L, every position of every row: LLaDA's pretraining loss. A bound per token for full rows."""

    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normaliser`."""
        return _ones(maskable), torch.tensor(float(maskable.numel()), dtype=torch.float64, device=maskable.device)


@dataclass(frozen=True)
class PerToken(Normaliser):
    """Divide by the maskable tokens of the batch (MDLM, SMDM and d1 fine-tuning). A bound per token, always."""

    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normaliser`."""
        return _ones(maskable), _at_least_one(maskable.sum())


@dataclass(frozen=True)
class PerRow(Normaliser):
    """Divide each row by its own maskable tokens, then by B: LLaDA's fine-tuning loss.

    Short answers count as long ones.
    """

    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normaliser`."""
        return 1.0 / _at_least_one(maskable.sum(1)), _ones(maskable).sum()

    def for_segments(self, numbers: Tensor) -> Normaliser:
        """Divide each segment by its own maskable tokens, then by the segments that have any."""
        return PerSegment(numbers)


@dataclass(frozen=True, eq=False)
class PerSegment(Normaliser):
    """`PerRow` for packed rows: what a batch of one segment per row would give.

    Args:
        numbers: (B, L) int64, segments counted from 0 in each row.
    """

    numbers: Tensor

    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normaliser`; the scale is (B, L)."""
        scale = 1.0 / segment_sums(maskable, self.numbers).clamp(min=1.0)
        # Each of a segment's n maskable tokens counts 1/n, so the sum is the number of segments.
        return scale, (scale * maskable).sum().round().clamp(min=1.0)


@dataclass(frozen=True)
class PerMasked(Normaliser):
    """Divide by the masked tokens of the batch: the plain mean of masked language models.

    Not a bound under any weight.
    """

    def __call__(self, maskable: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normaliser`."""
        return _ones(maskable), _at_least_one(masked.sum())
