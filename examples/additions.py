"""Sums of two numbers, written out: what is easy about them, and where a carry runs through many digits.

    3 8 2 7 1 5 + 0 4 1 9 6 6 = 0 4 2 4 6 8 1

A digit of the sum depends on the two above it and on a carry from the right, which most often is decided by the next
column alone. Only a chain of columns that sum to nine passes a carry on from farther away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PLUS, EQUALS, MASK = 10, 11, 12
VOCABULARY = 13


@dataclass(frozen=True)
class Additions:
    """Sums of two numbers of ``digits`` digits each; the most significant digit comes first.

    Args:
        digits: of a number, leading zeros included.
    """

    digits: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return 3 * self.digits + 3

    @property
    def is_sum(self) -> Tensor:
        """(L,) bool, the places of the sum."""
        return torch.arange(self.length) >= self.length - self.digits - 1

    def rows(self, first: Tensor, second: Tensor) -> Tensor:
        """Written out, (N, L) int64; the numbers are (N, digits) each, most significant digit first."""
        number, carry = first + second, torch.zeros(len(first), dtype=torch.int64)
        total = []
        for column in reversed(range(self.digits)):
            here = number[:, column] + carry
            total.append(here % 10)
            carry = here // 10
        written = torch.stack([carry, *reversed(total)], 1)
        sign = torch.ones(len(first), 1, dtype=torch.int64)
        return torch.cat([first, sign * PLUS, second, sign * EQUALS, written], 1)

    def draw(self, count: int, seed: int) -> Tensor:
        """Rows of uniformly random numbers, (count, L)."""
        random = torch.Generator().manual_seed(seed)
        first, second = torch.randint(10, (2, count, self.digits), generator=random)
        return self.rows(first, second)

    def draw_chains(self, count: int, chain: int, seed: int) -> Tensor:
        """Rows in which a carry arises, and runs through ``chain`` columns that sum to nine; (count, L).

        What stands to the left of the chain and to the right of its start is random, but continues no chain.
        """
        random = torch.Generator().manual_seed(seed)
        first = torch.randint(10, (count, self.digits), generator=random)
        total = torch.randint(19, (count, self.digits), generator=random)
        total = torch.where(total == 9, 8, total)
        start = torch.randint(chain, self.digits, (count, 1), generator=random)
        column = torch.arange(self.digits)
        total = torch.where((column < start) & (column >= start - chain), 9, total)
        total = torch.where(column == start, torch.randint(10, 19, (count, 1), generator=random), total)
        low, high = (total - 9).clamp(min=0), total.clamp(max=9)
        first = low + first % (high - low + 1)
        return self.rows(first, total - first)
