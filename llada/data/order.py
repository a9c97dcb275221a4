"""The order of an epoch as a function: place -> row, a permutation of which nothing is stored.

Write a place as two halves of h bits, and mix them R times (a Feistel network):

    (a, b) -> (b, a xor F_k(b)),    k = 1 .. R, with a key of its own for each k

Each round can be undone, so the whole is a permutation of 0 .. 4**h - 1, whatever F is. A result beyond the number of
rows is sent through again until it falls inside (cycle-walking), which leaves a permutation of exactly the rows. So 573
million rows cost no list on any rank, and the last place of an epoch is found as fast as the first.

Reference: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), sections 4 and 5. F is the mixing
function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_FEWEST_BITS = 3
"""Of a half: a network on one or two bits has too few different rounds to reach all orders evenly."""
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class RowOrder:
    """A permutation of 0 .. num_rows - 1 that follows from (seed, epoch).

    Args:
        num_rows: n, at most 2**62.
        seed: 0 or more.
        epoch: 0 or more.
    """

    num_rows: int
    seed: int
    epoch: int

    @cached_property
    def _half(self) -> int:
        """h: the least with 4**h at least n."""
        return max(((self.num_rows - 1).bit_length() + 1) // 2, _FEWEST_BITS)

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        words = np.random.SeedSequence([self.seed, self.epoch]).generate_state(ROUNDS, np.uint64)
        return words.astype(np.uint64)  # for type checkers, which see other sizes as well

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at some indices of the order.

        Args:
            indices: (m,) in 0 .. num_rows - 1.

        Returns:
            (m,) int64.
        """
        rows = self._mix(indices.astype(np.uint64))
        outside = np.flatnonzero(rows >= self.num_rows)
        while len(outside):
            rows[outside] = self._mix(rows[outside])
            outside = outside[rows[outside] >= self.num_rows]
        return rows.astype(np.int64)

    def _mix(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half, low = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        first, second = values >> half, values & low
        for key in self._keys:
            first, second = second, first ^ (_scramble(second + key) & low)
        return (first << half) | second


def _scramble(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIERS[0]
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIERS[1]
    return z ^ (z >> np.uint64(31))
