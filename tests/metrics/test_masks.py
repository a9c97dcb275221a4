"""Mask designs: the counts of LLaDA's scorer, and unbiasedness proved by going through all random numbers."""

import re
from dataclasses import dataclass, field
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from llada.metrics import BalancedMasks, MaskDesign, StratifiedCounts, mc_counts
from llada.metrics.masks import AllMasks
from llada.random import RowRandom
from llada.rows import exact_count_weight
from tests.golden_models import arrays

TABLES = arrays("llada-tiny", "tables")


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("mc_counts")])
def test_reference_rounding_gives_the_reference_counts(name: str) -> None:
    batch_size, length, start = (int(number) for number in re.findall(r"\d+", name))
    counts = mc_counts(torch.tensor(start), torch.tensor(length), batch_size, reference_rounding=True)
    assert torch.equal(counts, TABLES[name])
    share = TABLES[name.replace("mc_counts", "mc_pmask")]
    torch.testing.assert_close((counts / length).float(), share, rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 10, 32])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_every_copy_has_every_count_equally_often(length: int, batch_size: int) -> None:
    start = torch.arange(1, length + 1)
    counts = mc_counts(start, torch.full_like(start, length), batch_size)
    assert torch.equal(counts.sort(0).values, start[:, None].expand(-1, batch_size))


def test_the_reference_rounds_to_even() -> None:
    start = torch.arange(1, 11)
    counts = mc_counts(start, torch.full_like(start, 10), 4, reference_rounding=True)
    assert counts[:, [1, 3]].remainder(2).sum() == 0


def test_the_counts_of_a_batch_are_spread() -> None:
    assert mc_counts(torch.tensor(3), torch.tensor(10), 5).tolist() == [3, 5, 7, 9, 1]
    assert mc_counts(torch.tensor(2), torch.tensor(3), 6).tolist() == [2, 2, 3, 3, 1, 1]


@dataclass(frozen=True)
class GivenNumbers(RowRandom):
    """A level and an order of the tokens per row, the same for every group of copies."""

    level: Tensor = field(default_factory=lambda: torch.empty(0))
    order: Tensor = field(default_factory=lambda: torch.empty(0))
    tag: int = 0

    def fold_in(self, *tags: int) -> "GivenNumbers":
        return GivenNumbers(self.keys, self.shared_key, self.rows, self.num_rows, self.level, self.order, tags[0])

    def uniform_at(self, positions: Tensor, *size: int) -> Tensor:
        place = positions % 2**32
        return self.level[:, None].expand_as(place) if self.tag == 0 else self.order.gather(1, place)


def everything(n: int) -> GivenNumbers:
    """All levels (in twelfths, so that 1 to 4 of them divide evenly) times all orders of n tokens."""
    cases = list(product([(k + 0.5) / 12 for k in range(12)], permutations((i + 0.5) / n for i in range(n))))
    plain = RowRandom.from_seed(0, len(cases))
    level, order = (torch.tensor(part, dtype=torch.float64) for part in zip(*cases, strict=True))
    return GivenNumbers(plain.keys, plain.shared_key, plain.rows, plain.num_rows, level, order)


@pytest.mark.parametrize(
    "design", [StratifiedCounts(), BalancedMasks(1), BalancedMasks(2), BalancedMasks(4), BalancedMasks(100)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_mean_over_all_random_numbers_is_the_bound(design: MaskDesign, batch_size: int, n: int) -> None:
    # f is arbitrary: one number for each of the 2^n sets. Every copy's share of each set is known exactly.
    random, f = everything(n), torch.randn(2**n, dtype=torch.float64)
    length = torch.full_like(random.rows, n)
    total = torch.zeros((), dtype=torch.float64)
    for copy in range(batch_size):
        masked, weight = design(torch.full_like(length, copy), length, batch_size, random=random)
        assert masked.shape == (len(length), n)
        assert bool(masked.any(1).all())
        total += (weight * f[(masked * 2 ** torch.arange(n)).sum(1)]).mean()
    size = torch.tensor([bin(code).count("1") for code in range(2**n)])
    expected = sum(f[size == count].mean() / count for count in range(1, n + 1))
    torch.testing.assert_close(total, torch.as_tensor(expected), rtol=1e-12, atol=1e-12)


def test_all_masks_are_all_sets_with_their_weights() -> None:
    length = torch.tensor([3] * 7)
    masked, weight = AllMasks()(torch.arange(7), length, 0, random=RowRandom.from_seed(0, 7))
    assert len(masked.unique(dim=0)) == 7
    size = masked.sum(1)
    torch.testing.assert_close(weight, torch.tensor([0, 1 / 3, 1 / 6, 1 / 3], dtype=torch.float64)[size])


@pytest.mark.parametrize("design", [StratifiedCounts(), BalancedMasks()])
def test_copies_differ_but_depend_on_their_stream_only(design: MaskDesign) -> None:
    copy, length = torch.arange(32), torch.full((32,), 20)
    keys = torch.zeros(32, dtype=torch.int64)
    masked, weight = design(copy, length, 32, random=RowRandom.from_seed(keys + 5, 32))
    assert len(masked.unique(dim=0)) > 28
    # beside a longer answer, in another order
    back = torch.cat((torch.tensor([3]), copy.flip(0)))
    lengths = torch.cat((torch.tensor([50]), length))
    seeds = torch.cat((torch.tensor([9]), keys + 5))
    beside = design(back, lengths, 32, random=RowRandom.from_seed(seeds, 33))
    assert torch.equal(beside.masked[1:, :20].flip(0), masked)
    assert not beside.masked[1:, 20:].any()
    assert torch.equal(beside.weight[1:].flip(0), weight)


def test_arcs_of_small_sets_are_disjoint_and_of_half_sets_complements() -> None:
    copy, length = torch.arange(4), torch.full((4,), 8)
    random = RowRandom.from_seed(torch.full((4,), 1), 4)
    low = BalancedMasks(4)(copy, torch.full((4,), 64), 32, random=random)  # the first of eight ranges
    assert int(low.masked.sum(1).max()) <= 64 // 4
    assert int(low.masked.sum(0).max()) == 1
    counts = BalancedMasks(4)(copy, length, 4, random=random).masked.sum(1)
    assert counts.sort().values.diff().tolist() == [2, 2, 2]


def test_a_bad_group_size_is_named() -> None:
    with pytest.raises(ValueError, match="group_size must be 1 or more; got 0"):
        BalancedMasks(0)


def test_the_weight_of_an_exact_count_makes_the_mean_over_counts_a_sum() -> None:
    count = torch.arange(1, 6)
    assert exact_count_weight(count, 5).tolist() == [5.0, 2.5, 5 / 3, 1.25, 1.0]
    assert exact_count_weight(count, torch.full_like(count, 5), 2).tolist() == [2.5, 1.25, 5 / 6, 0.625, 0.5]
    empty = exact_count_weight(torch.tensor([0]), torch.tensor([0]))
    assert (empty.item(), empty.dtype) == (0.0, torch.float64)
