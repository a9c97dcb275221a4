"""Times for training: their law, and strata that span ranks and accumulation steps."""

import pytest
import torch
from scipy import stats

from llada.noise import (
    AntitheticTimes,
    LinearSchedule,
    LinearSigmaSchedule,
    NoiseSchedule,
    StratifiedTimes,
    SystematicTimes,
    TimeSampler,
    UniformTimes,
)
from llada.random import RowRandom
from tests.doubles import GivenNumbers
from tests.golden_models import arrays


class InOrder(GivenNumbers):
    """Given numbers whose rows keep the order of their strata."""

    def shared_uniform(self, *size: int) -> torch.Tensor:
        (num_rows,) = size
        return (torch.arange(num_rows, dtype=torch.float64) + 0.5) / num_rows


FALSE_ALARM = 1e-6
KINDS = [UniformTimes, StratifiedTimes, SystematicTimes, AntitheticTimes]


def step(number: int, rows: torch.Tensor, num_rows: int) -> RowRandom:
    return RowRandom.for_step(0, number, rows, num_rows)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_a_uniform_time(kind: type[TimeSampler]) -> None:
    sampler = kind(t_min=0.2, t_max=0.7)
    times = torch.stack([sampler(step(n, torch.arange(8), 8)) for n in range(2000)])
    assert times.dtype == torch.float64
    assert float(times.min()) > 0.2
    assert float(times.max()) <= 0.7
    for row in range(8):
        assert stats.kstest(times[:, row].numpy(), stats.uniform(0.2, 0.5).cdf).pvalue > FALSE_ALARM / 8


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_accumulation_share_one_draw(kind: type[TimeSampler]) -> None:
    whole = kind()(step(3, torch.arange(24), 24))
    for micro in range(3):
        for rank in range(2):
            rows = (micro * 4 + torch.arange(4)) * 2 + rank
            assert torch.equal(kind()(step(3, rows, 24)), whole[rows])


@pytest.mark.parametrize("kind", [StratifiedTimes, SystematicTimes])
def test_one_time_in_every_stratum(kind: type[TimeSampler]) -> None:
    for number in range(20):
        times = kind()(step(number, torch.arange(10), 10))
        strata = (times * 10).floor().long()
        offset = 0 if kind is StratifiedTimes else int(strata.min())
        assert sorted((strata - offset).tolist()) == list(range(10))


def test_strata_are_not_tied_to_rows() -> None:
    strata = torch.stack([(StratifiedTimes()(step(n, torch.arange(6), 6)) * 6).long() for n in range(1200)])
    for row in range(6):
        counts = torch.bincount(strata[:, row], minlength=6)
        assert stats.chisquare(counts.numpy()).pvalue > FALSE_ALARM / 6


def test_systematic_times_have_equal_gaps() -> None:
    times = SystematicTimes()(step(0, torch.arange(5), 5)).sort().values
    torch.testing.assert_close(times.diff(), torch.full((4,), 0.2, dtype=torch.float64))


def test_antithetic_pairs_mirror_each_other() -> None:
    times = AntitheticTimes()(step(0, torch.arange(7), 7))
    torch.testing.assert_close(times[0:6:2] + times[1:6:2], torch.ones(3, dtype=torch.float64))


def test_mdlms_times() -> None:
    golden = arrays("mdlm-dit-tiny", "schedules")
    uniform = golden["sample_t.uniform"]
    times = UniformTimes(t_min=1e-3)(GivenNumbers.of(uniform))
    torch.testing.assert_close(times, golden["sample_t.antithetic_False"].double(), rtol=1e-5, atol=1e-7)


def test_mdlms_antithetic_times_are_strata() -> None:
    golden = arrays("mdlm-dit-tiny", "schedules")
    # Theirs tie stratum i to row i; ours do if the permutation happens to be the identity.
    times = StratifiedTimes(t_min=1e-3)(InOrder.of(golden["sample_t.uniform"]))
    torch.testing.assert_close(times, golden["sample_t.antithetic_True"].double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "schedule"), [("loglinear", LinearSchedule(eps=1e-3)), ("linear_1e-3_7", LinearSigmaSchedule(1e-3, 7.0))]
)
def test_mdlms_importance_times(name: str, schedule: NoiseSchedule) -> None:
    """Theirs make log p(t) linear in a uniform number, from sigma = 1e-3 to sigma(1): `time_at` at such shares."""
    golden = arrays("mdlm-dit-tiny", "schedules")
    u = golden["importance.t"].double()
    low = -torch.expm1(torch.tensor(-1e-3, dtype=torch.float64))
    high = schedule.mask_probability(torch.ones_like(low))
    times = schedule.time_at(low * (high / low) ** u)
    torch.testing.assert_close(times, golden[f"importance.{name}"].double(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.8, 0.2)])
def test_bad_intervals_are_named(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="need 0 <= t_min < t_max <= 1"):
        UniformTimes(*bounds)
