"""Counter-based random numbers: every number is a pure function of (key, index).

A row of a batch owns a 64-bit key, and its i-th number is ``mix(key + (i + 1) * golden)``, the SplitMix64 generator
read at a place of our choosing. Nothing is stored between draws, so

- a row gets the same numbers whatever its neighbours, the batch size or the device;
- a training step gets the same noise after a resume, and rows keep theirs when they move to another rank or another
  gradient-accumulation step;
- the rows of a batch draw at once: no generator per row, no Python loop, no host synchronisation.

Reference: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014);
keys are split in the manner of ``jax.random.fold_in``.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Read the low 64 bits of an integer as the int64 that torch stores."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose output bits all depend on all input bits."""
    z = (z ^ _shift_right(z, 30)).mul_(_MULTIPLIER_1)
    z = z.bitwise_xor_(_shift_right(z, 27)).mul_(_MULTIPLIER_2)
    return z.bitwise_xor_(_shift_right(z, 31))


def _numbers(key: Tensor, index: Tensor) -> Tensor:
    return _mix(key + (index + 1) * _GOLDEN)


def _number_at(key: Tensor, index: int) -> Tensor:
    return _mix(key + _signed((index + 1) * _GOLDEN))


# Compilers fold integer constants as if integers had no end, so that they don't fit into int64 any more. In a compiled
# graph these functions are therefore operators without an inside.
_opaque_mix = torch.library.custom_op("llada::mix", _mix, mutates_args=())
_opaque_mix.register_fake(lambda z: torch.empty_like(z))
_opaque_numbers = torch.library.custom_op("llada::numbers", _numbers, mutates_args=())
_opaque_numbers.register_fake(lambda key, index: torch.empty_like(key + index))
_opaque_number_at = torch.library.custom_op("llada::number_at", _number_at, mutates_args=())
_opaque_number_at.register_fake(lambda key, index: torch.empty_like(key))


def _mixed(z: Tensor) -> Tensor:
    return _opaque_mix(z) if torch.compiler.is_compiling() else _mix(z)


def _number(key: Tensor, index: Tensor | int) -> Tensor:
    """The ``index``-th 64-bit number of the stream that starts at ``key``."""
    if isinstance(index, Tensor):
        return _opaque_numbers(key, index) if torch.compiler.is_compiling() else _numbers(key, index)
    return _opaque_number_at(key, index) if torch.compiler.is_compiling() else _number_at(key, index)


def _to_unit_interval(z: Tensor) -> Tensor:
    """52 random bits to a float64 strictly inside (0, 1): the centres of 2**52 equal cells."""
    return (_shift_right(z, 12).to(torch.float64) + 0.5) * 2.0**-52


@dataclass(frozen=True)
class RowRandom:
    """Independent streams of random numbers, one per row, and one that all rows share.

    Args:
        keys: (B,) int64, the stream of each row.
        shared_key: () int64, a stream that is the same on every rank and accumulation step; for decisions that rows
            take together, such as the permutation behind stratified times.
        rows: (B,) int64, the index of each row in the global batch (over ranks and accumulation steps).
        num_rows: number of rows in the global batch.

    Examples:
        >>> import torch
        >>> from llada.random import RowRandom
        >>> two, one = RowRandom.from_seed(7, num_rows=2), RowRandom.from_seed(8, num_rows=1)
        >>> torch.equal(two.uniform(5)[1:], one.uniform(5))  # a row doesn't depend on its neighbours
        True
        >>> torch.equal(two.fold_in(1).uniform(5), two.uniform(5))  # each purpose has a stream of its own
        False
    """

    keys: Tensor
    shared_key: Tensor
    rows: Tensor
    num_rows: int

    @classmethod
    def from_seed(cls, seed: int | Tensor, num_rows: int, device: torch.device | str | None = None) -> "RowRandom":
        """Streams for a batch that stands alone, as in sampling and evaluation.

        Args:
            seed: with an int ``s``, row ``i`` has the seed ``s + i``, so row ``i`` of a batch equals row 0 of a batch
                of one with seed ``s + i``; with a (B,) int64 tensor every row has its own.
            num_rows: B.
            device: where the numbers are wanted.

        Raises:
            ValueError: if ``seed`` is a tensor of another shape or type than (B,) integers.
        """
        rows = torch.arange(num_rows, device=device)
        if isinstance(seed, Tensor):
            if seed.shape != (num_rows,) or seed.is_floating_point():
                raise ValueError(
                    f"seed must be an int or a ({num_rows},) integer tensor, one seed per row; "
                    f"got shape {tuple(seed.shape)} and {seed.dtype}"
                )
            seeds = seed.to(rows)
        else:
            seeds = rows + seed
        keys = _mixed(_mixed(seeds) + _GOLDEN)
        return cls(keys, _number(keys[:1].sum(), -2), rows, num_rows)

    @classmethod
    def for_step(cls, seed: int, step: int, rows: Tensor, num_rows: int, numbers: Tensor | None = None) -> "RowRandom":
        """Streams for one training step.

        Args:
            seed: seed of the run.
            step: index of the optimiser step.
            rows: (B,) int64, global index of each local row: 0 .. num_rows - 1 over all ranks and accumulation steps.
            num_rows: rows in the whole step.
            numbers: (B,) int64, which streams of the step are the rows': no two rows of a step may have the same one.
                None: ``rows``, where all micro-batches have one size.
        """
        start = torch.full((), seed, dtype=torch.int64, device=rows.device)
        shared = _number(_mixed(_mixed(start) + _GOLDEN), step)
        return cls(_number(_mixed(shared), rows if numbers is None else numbers), shared, rows, num_rows)

    def fold_in(self, *tags: int) -> "RowRandom":
        """Streams that are independent of these and of those of any other tags.

        Args:
            tags: what the numbers are for, such as the index of a sampling step.
        """
        return _Folded(self, tags)

    def select(self, rows: Tensor) -> "RowRandom":
        """The streams of some rows only.

        Args:
            rows: (B',) int64 indices into this batch.
        """
        return RowRandom(self.keys[rows], self.shared_key, self.rows[rows], self.num_rows)

    def split(self, count: int) -> "RowRandom":
        """Streams for ``count`` rows in the place of each, which follow one another; see `fold_in`.

        Args:
            count: C; row i becomes the rows i C .. i C + C - 1.
        """
        tags = torch.arange(count, device=self.keys.device)
        keys = _mixed(_number(self.keys[:, None], tags) + _GOLDEN).flatten()
        rows = (self.rows[:, None] * count + tags).flatten()
        return RowRandom(keys, self.shared_key, rows, self.num_rows * count)

    def uniform(self, *size: int) -> Tensor:
        """Uniform numbers, (B, *size) float64 in the open interval (0, 1)."""
        index = torch.arange(math.prod(size), device=self.keys.device)
        return _to_unit_interval(_number(self.keys[:, None], index)).view(-1, *size)

    def uniform_at(self, positions: Tensor) -> Tensor:
        """``uniform(L)`` gathered at ``positions``: whoever asks for position p of a row gets the same number.

        Args:
            positions: (B, M) int64.

        Returns:
            (B, M) float64 in (0, 1).
        """
        return _to_unit_interval(_number(self.keys[:, None], positions))

    def shared_uniform(self, *size: int) -> Tensor:
        """Uniform numbers that every row and rank of the step agrees on, (*size) float64 in (0, 1)."""
        index = torch.arange(math.prod(size), device=self.keys.device)
        return _to_unit_interval(_number(self.shared_key, index)).view(size)


class _Folded(RowRandom):
    """Streams whose keys are computed when a number is first drawn.

    A decoding step names more streams than it draws from: greedy decoding draws from none, and on a GPU each key that
    isn't computed saves some twenty kernels.

    Args:
        parent: the streams that the tags are folded into.
        tags: what the numbers are for.
    """

    def __init__(self, parent: RowRandom, tags: tuple[int, ...]) -> None:
        self.parent, self.tags = parent, tags

    @cached_property
    def keys(self) -> Tensor:
        """(B,) int64."""
        return self._fold(self.parent.keys)

    @cached_property
    def shared_key(self) -> Tensor:
        """() int64."""
        return self._fold(self.parent.shared_key)

    @property
    def rows(self) -> Tensor:
        """(B,) int64, the parent's."""
        return self.parent.rows

    @property
    def num_rows(self) -> int:
        """The parent's."""
        return self.parent.num_rows

    def _fold(self, key: Tensor) -> Tensor:
        for tag in self.tags:
            key = _mixed(_number(key, tag) + _GOLDEN)
        return key
