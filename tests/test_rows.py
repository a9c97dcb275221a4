"""Padding, segments, positions and blocks: exact values by hand, and the same from plain loops over tokens."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llada.rows import (
    block_numbers,
    block_of,
    group_sums,
    has_context,
    left_padding,
    positions,
    segment_numbers,
    segment_starts,
)

# Ids needn't count from 0, rise, or differ from an earlier segment's: only a change begins a segment.
IDS = torch.tensor([[7, 7, 7, 2, 2, 7], [0, 1, 1, 1, 1, 1]])
TOKENS = torch.arange(12).view(2, 6)
PADDED = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1]])  # in front and behind; a gap is not padding in front


def same(found: Tensor, expected: list[list[int]], dtype: torch.dtype = torch.int64) -> None:
    assert found.dtype == dtype
    assert found.tolist() == expected


def test_segments() -> None:
    starts = segment_starts(IDS)
    assert starts.dtype == torch.bool
    assert starts.int().tolist() == [[1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0]]
    same(segment_numbers(IDS), [[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])


def test_group_sums() -> None:
    numbers = torch.tensor([[0, 0, 1, 2], [3, 3, 3, 0]])
    found = group_sums(torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]]), numbers)
    assert found.dtype == torch.float64
    assert found.tolist() == [[3.0, 3.0, 4.0, 8.0], [7.0, 7.0, 7.0, 8.0]]
    assert group_sums(torch.tensor([[True, True, False, True]]), numbers[:1]).tolist() == [[2.0, 2.0, 0.0, 1.0]]


def test_group_sums_are_in_double_precision() -> None:
    large = torch.tensor([[2.0**24, 1.0]])  # float32 would lose the 1
    assert group_sums(large, torch.zeros(1, 2, dtype=torch.long)).tolist() == [[2.0**24 + 1] * 2]


def test_left_padding() -> None:
    for mask in (PADDED, PADDED.bool()):
        same(left_padding(TOKENS, mask), [[2], [0]])
    same(left_padding(TOKENS, None), [[0], [0]])
    same(left_padding(TOKENS, torch.zeros(2, 6)), [[6], [6]])


def test_positions() -> None:
    same(positions(TOKENS), [[0, 1, 2, 3, 4, 5]] * 2)
    same(positions(TOKENS, PADDED), [[-2, -1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    same(positions(TOKENS, None, IDS), [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]])


def test_has_context() -> None:
    def bits(found: Tensor) -> list[list[int]]:
        assert found.dtype == torch.bool
        return found.int().tolist()  # type: ignore[no-any-return]

    assert bits(has_context(TOKENS)) == [[0, 1, 1, 1, 1, 1]] * 2
    assert bits(has_context(TOKENS, PADDED)) == [[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 1, 1]]
    assert bits(has_context(TOKENS, None, IDS)) == [[0, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert bits(has_context(TOKENS, PADDED, IDS)) == [[0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 1]]


def test_blocks() -> None:
    assert block_of(torch.tensor([-3, -1, 0, 1, 2, 3, 4]), 2).tolist() == [0, 0, 0, 0, 1, 1, 2]
    same(block_numbers(TOKENS, 2), [[0, 0, 1, 1, 2, 2]] * 2)
    same(block_numbers(TOKENS, 2, PADDED), [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]])
    same(block_numbers(TOKENS, 2, None, IDS), [[0, 0, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3]])
    same(block_numbers(TOKENS, 9, None, IDS), [[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])


LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(LENGTHS, st.integers(1, 4))
def test_a_packed_row_has_the_positions_and_blocks_of_its_segments(lengths: list[int], block_length: int) -> None:
    ids = torch.tensor([[number % 2 for number, length in enumerate(lengths) for _ in range(length)]])
    tokens = torch.zeros_like(ids)
    place, block, count = [], [], 0
    for length in lengths:
        place += list(range(length))
        block += [count + column // block_length for column in range(length)]
        count = block[-1] + 1
    same(segment_numbers(ids), [[number for number, length in enumerate(lengths) for _ in range(length)]])
    same(positions(tokens, None, ids), [place])
    same(block_numbers(tokens, block_length, None, ids), [block])
    assert has_context(tokens, None, ids).tolist() == [[column > 0 for column in place]]


@given(st.integers(0, 4), st.integers(1, 6), st.integers(0, 3), st.integers(1, 4))
def test_nothing_depends_on_how_a_row_is_padded(front: int, length: int, behind: int, block_length: int) -> None:
    mask = torch.tensor([[False] * front + [True] * length + [False] * behind])
    padded, plain = torch.zeros_like(mask, dtype=torch.long), torch.zeros(1, length, dtype=torch.long)
    real = slice(front, front + length)
    assert torch.equal(positions(padded, mask)[:, real], positions(plain))
    assert torch.equal(block_numbers(padded, block_length, mask)[:, real], block_numbers(plain, block_length))
    assert torch.equal(has_context(padded, mask)[:, real], has_context(plain))
    assert (positions(padded, mask)[:, :front] < 0).all()
    assert (block_numbers(padded, block_length, mask)[:, :front] == 0).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), min_size=5, max_size=8))
def test_group_sums_are_those_of_a_loop(pairs: list[tuple[int, int]]) -> None:
    numbers, values = (torch.tensor([column]) for column in zip(*pairs, strict=True))
    expected = [float(sum(value for other, value in pairs if other == number)) for number, _ in pairs]
    assert group_sums(values, numbers).tolist() == [expected]
