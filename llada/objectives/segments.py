"""Packed rows as what they hold: every segment is a datum of its own, with a noise level and a length of its own.

Shapes: B rows, L positions.
"""

import torch
from torch import Tensor

from llada.noise import TimeSampler
from llada.random import RowRandom


def segment_numbers(segment_ids: Tensor) -> Tensor:
    """Segments counted from 0 in each row, (B, L) int64.

    Args:
        segment_ids: (B, L) integers, constant within a segment.
    """
    begins = torch.zeros_like(segment_ids, dtype=torch.int64)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return begins.cumsum(1)


def segment_sums(values: Tensor, numbers: Tensor) -> Tensor:
    """Sum over each position's segment, (B, L) float64.

    Args:
        values: (B, L).
        numbers: (B, L), see `segment_numbers`.
    """
    sums = torch.zeros(values.shape, dtype=torch.float64, device=values.device)
    return sums.scatter_add(1, numbers, values.double()).gather(1, numbers)


def segment_times(times: TimeSampler, random: RowRandom, numbers: Tensor) -> Tensor:
    """A noise level per segment, (B, L) float64. The first segments of all rows have those of rows that aren't packed.

    Args:
        times: draws one per row: here for the first segments of all rows, then for the second ones, and so on.
        random: the rows' random streams for times.
        numbers: (B, L), see `segment_numbers`.
    """
    drawn = [times(random), *(times(random.fold_in(number)) for number in range(1, int(numbers.max()) + 1))]
    return torch.stack(drawn, dim=1).gather(1, numbers)
