"""The order of an epoch is a permutation, even over all orders, and costs nothing however many rows there are."""

import tracemalloc
from collections import Counter
from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from llada.data.loader import TrainingSampler
from llada.data.order import RowOrder

SIZES = [*range(1, 300), 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537, 100_003]


@pytest.mark.parametrize("seed", [0, 7])
def test_every_row_comes_once(seed: int) -> None:
    for size in SIZES:
        order = RowOrder(size, seed, epoch=3)(np.arange(size))
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(size)), size


@given(size=st.integers(1, 10**12), epoch=st.integers(0, 3), data=st.data())
def test_a_row_does_not_depend_on_what_else_is_asked(size: int, epoch: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    order = RowOrder(size, 1, epoch)
    rows = order(places)
    assert rows.tolist() == [int(order(places[i : i + 1])[0]) for i in range(len(places))]
    assert len(set(rows.tolist())) == len(rows)
    assert 0 <= rows.min() <= rows.max() < size


@pytest.mark.parametrize("size", [3, 4])
def test_all_orders_of_few_rows_are_equally_likely(size: int) -> None:
    """Chi-square over all n! orders, fixed seeds; false alarm 1e-4 if the seeds were drawn."""
    draws = 500
    seen = Counter(tuple(RowOrder(size, seed, 0)(np.arange(size)).tolist()) for seed in range(draws))
    expected = draws / factorial(size)
    statistic = sum((seen[order] - expected) ** 2 / expected for order in permutations(range(size)))
    assert chi2.sf(statistic, factorial(size) - 1) > 1e-4


def statistic_of(orders: np.ndarray) -> float:
    """(n - 1) / n times chi-square of the (place, row) table, which has (n - 1)**2 degrees of freedom."""
    draws, size = orders.shape
    table = np.zeros((size, size))
    for order in orders:
        table[np.arange(size), order] += 1
    return float(((table - draws / size) ** 2).sum() / (draws / size) * (size - 1) / size)


@pytest.mark.parametrize("size", [16, 100, 256, 300])
def test_every_row_is_equally_likely_at_every_place(size: int) -> None:
    orders = np.stack([RowOrder(size, 0, epoch)(np.arange(size)) for epoch in range(400)])
    assert 1e-4 < chi2.sf(statistic_of(orders), (size - 1) ** 2) < 1 - 1e-4
    turned = np.stack([(np.arange(size) + 2 * epoch) % size for epoch in range(400)])
    assert chi2.sf(statistic_of(turned), (size - 1) ** 2) < 1e-4  # even rotations alone


def test_neighbours_in_the_order_are_no_neighbours_in_the_data() -> None:
    size = 1000
    steps = np.concatenate([np.diff(RowOrder(size, 1, epoch)(np.arange(size))) % size for epoch in range(100)])
    counts = np.bincount(steps, minlength=size)
    assert counts[0] == 0
    expected = counts[1:].mean()
    assert chi2.sf(((counts[1:] - expected) ** 2 / expected).sum(), size - 2) > 1e-4


def test_every_seed_and_epoch_has_its_own_order() -> None:
    orders = {tuple(RowOrder(50, seed, epoch)(np.arange(50)).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_half_a_billion_rows_cost_no_list() -> None:
    rows = range(573_000_000)
    tracemalloc.start()
    try:
        samplers = [TrainingSampler(rows, 4, num_replicas=8, rank=rank) for rank in range(8)]  # type: ignore[arg-type]
        for sampler in samplers:
            sampler.begin = (1, sampler.num_samples // 4 - 1)  # the last step of the second epoch
        last = [row for sampler in samplers for row in sampler]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(set(last)) == 32
    assert peak < 1 << 20
