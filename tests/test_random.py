"""Counter-based random numbers: their law, and that nothing but key and index decides them."""

import pytest
import torch
from scipy import stats

from llada.random import RowRandom

FALSE_ALARM = 1e-6
"""Chance that a statistical test below fails although the law is right."""


def test_numbers_are_in_the_open_unit_interval_and_uniform() -> None:
    numbers = RowRandom.from_seed(3, 200).uniform(1000)
    assert numbers.dtype == torch.float64
    assert float(numbers.min()) > 0.0
    assert float(numbers.max()) < 1.0
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > FALSE_ALARM


def test_every_bit_of_the_mantissa_is_fair() -> None:
    numbers = RowRandom.from_seed(11, 100).uniform(2000)
    bits = (numbers.flatten() * 2.0**52).long()
    for place in range(52):
        ones = int(((bits >> place) & 1).sum())
        assert stats.binomtest(ones, bits.numel()).pvalue > FALSE_ALARM / 52


@pytest.mark.parametrize("lag", [1, 2, 17])
def test_neighbours_are_independent_within_and_across_rows(lag: int) -> None:
    numbers = RowRandom.from_seed(0, 300).uniform(300)
    for a, b in ((numbers[:, lag:], numbers[:, :-lag]), (numbers[lag:], numbers[:-lag])):
        cells = torch.histogramdd(torch.stack((a.flatten(), b.flatten()), 1), bins=[8, 8]).hist
        assert stats.chisquare(cells.flatten().numpy()).pvalue > FALSE_ALARM


def test_consecutive_tags_and_seeds_give_unrelated_streams() -> None:
    base = RowRandom.from_seed(5, 400)
    streams = [base, base.fold_in(0), base.fold_in(1), base.fold_in(0, 1), base.fold_in(1, 0)]
    numbers = torch.stack([stream.uniform(250).flatten() for stream in streams])
    correlation = torch.corrcoef(numbers) - torch.eye(len(streams))
    # 100,000 pairs: standard deviation 1/316; six of them have a false-alarm rate below 1e-8 per pair.
    assert float(correlation.abs().max()) < 6 / 316


def test_a_row_has_its_numbers_whatever_its_neighbours() -> None:
    together = RowRandom.from_seed(40, 5).fold_in(2).uniform(7)
    alone = RowRandom.from_seed(43, 1).fold_in(2).uniform(7)
    chosen = RowRandom.from_seed(torch.tensor([43, 40]), 2).fold_in(2).uniform(7)
    assert torch.equal(together[3:4], alone)
    assert torch.equal(chosen, together[[3, 0]])


def test_a_position_has_its_numbers_in_any_order_of_asking() -> None:
    random = RowRandom.from_seed(1, 2)
    positions = torch.tensor([[4, 0, 9], [2, 2, 1]])
    assert torch.equal(random.uniform_at(positions), random.uniform(10).gather(1, positions))
    assert torch.equal(random.uniform_at(positions.flip(1)), random.uniform_at(positions).flip(1))


def test_rows_of_a_step_keep_their_numbers_on_any_rank() -> None:
    whole = RowRandom.for_step(seed=9, step=100, rows=torch.arange(8), num_rows=8)
    odd = RowRandom.for_step(seed=9, step=100, rows=torch.arange(1, 8, 2), num_rows=8)
    assert torch.equal(odd.uniform(4), whole.uniform(4)[1::2])
    assert torch.equal(odd.shared_uniform(5), whole.shared_uniform(5))
    assert torch.equal(odd.fold_in(3).shared_uniform(5), whole.fold_in(3).shared_uniform(5))
    later = RowRandom.for_step(seed=9, step=101, rows=torch.arange(8), num_rows=8)
    assert not torch.equal(later.uniform(4), whole.uniform(4))
    assert not torch.equal(later.shared_uniform(4), whole.shared_uniform(4))


def test_the_published_first_outputs_of_splitmix64() -> None:
    # Seed 0: 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F.
    stream = RowRandom(torch.zeros(1, dtype=torch.int64), torch.zeros((), dtype=torch.int64), torch.arange(1), 1)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert stream.uniform(3).flatten().tolist() == [((z >> 12) + 0.5) * 2.0**-52 for z in expected]


@pytest.mark.parametrize("seed", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)])
def test_a_seed_tensor_of_the_wrong_shape_or_type_is_refused(seed: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="seed must be an int or a"):
        RowRandom.from_seed(seed, 2)


def test_a_stream_that_nobody_draws_from_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import llada.random

    mixed: list[torch.Size] = []
    plain = llada.random._mix
    random = RowRandom.from_seed(3, 5)
    monkeypatch.setattr(llada.random, "_mix", lambda z: (mixed.append(z.shape), plain(z))[1])
    folded = random.fold_in(1).fold_in(2, 3)
    assert mixed == []
    numbers = folded.uniform(4)
    assert mixed == [(5,)] * 2 * 3 + [(5, 4)]  # three tags, then the numbers; the shared key isn't computed
    assert torch.equal(numbers, random.fold_in(1, 2, 3).uniform(4))
    assert torch.equal(folded.select(torch.tensor([4])).uniform(4), numbers[4:])
    assert not hasattr(folded, "seed")
