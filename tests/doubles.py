"""Stand-ins that replace chance by given numbers."""

from dataclasses import dataclass

from torch import Tensor

from llada.noise import TimeSampler
from llada.random import RowRandom


@dataclass(frozen=True)
class GivenTimes(TimeSampler):
    """A time sampler that returns what it was given."""

    t: Tensor

    def __call__(self, random: RowRandom) -> Tensor:
        return self.t.double()


@dataclass(frozen=True)
class GivenNumbers(RowRandom):
    """Random streams whose per-row numbers are given, (B, L)."""

    numbers: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> "GivenNumbers":
        plain = RowRandom.from_seed(0, len(numbers))
        return cls(plain.keys, plain.shared_key, plain.rows, plain.num_rows, numbers.double())

    def fold_in(self, *tags: int) -> "GivenNumbers":
        return self

    def uniform(self, *size: int) -> Tensor:
        assert size == tuple(self.numbers.shape[1:])
        return self.numbers
