"""Masks of exact counts: the counts, and that every set of a size is equally likely."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llada.objectives.exact_counts import masked_exactly
from llada.random import RowRandom
from llada.rows import group_sums

FALSE_ALARM = 1e-6


@given(seed=st.integers(0, 2**31), length=st.integers(1, 9), rows=st.integers(1, 5), data=st.data())
def test_exact_counts(seed: int, length: int, rows: int, data: st.DataObject) -> None:
    flags = st.lists(st.booleans(), min_size=rows * length, max_size=rows * length)
    bits, breaks = (torch.tensor(data.draw(flags)).view(rows, length) for _ in range(2))
    groups = breaks.cumsum(1)
    groups = groups - groups[:, :1]  # data counted from 0 in each row
    wanted = torch.tensor([[data.draw(st.integers(0, length)) for _ in range(length)] for _ in range(rows)])
    count = wanted.gather(1, groups).double()  # one number for each datum
    masks = masked_exactly(bits, groups, count, RowRandom.from_seed(seed, rows))
    size = group_sums(bits, groups)
    assert torch.equal(group_sums(masks.masked, groups), torch.minimum(count, size))
    assert not (masks.masked & ~bits).any()
    assert torch.equal(masks.size, size)
    hit = masks.count > 0
    torch.testing.assert_close(masks.weight[hit], (size / masks.count)[hit])
    assert (masks.weight[~hit] == 1.0).all()
    torch.testing.assert_close(masks.share * masks.weight, torch.ones(rows, length, dtype=torch.float64))


def test_every_set_of_an_exact_count_is_equally_likely() -> None:
    """Two of four in a row, and one of the two in each half of a row of two data; chi-square, false alarm 1e-6."""
    rows = 12_000
    for groups, count, sets in (([0, 0, 0, 0], 2.0, 6), ([0, 0, 1, 1], 1.0, 4)):
        masks = masked_exactly(
            torch.ones(rows, 4, dtype=torch.bool),
            torch.tensor(groups).expand(rows, 4),
            torch.full((rows, 4), count, dtype=torch.float64),
            RowRandom.from_seed(5, rows),
        )
        code = (masks.masked.long() * torch.tensor([1, 2, 4, 8])).sum(1)
        observed = torch.bincount(code, minlength=16)
        assert int((observed > 0).sum()) == sets
        assert stats.chisquare(observed[observed > 0]).pvalue > FALSE_ALARM
