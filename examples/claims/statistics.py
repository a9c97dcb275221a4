"""Intervals for what the claims measure. Everything is given as one sequence of outcomes per seed.

    wilson(90, 100)                               share of successes in one run
    mean_over_seeds([run_a, run_b, run_c])        mean over runs and their items
    difference_over_seeds(first, second)          the same of first - second, item by item and seed by seed
    interval.above(0.0)                           does a direction hold beyond its interval?
    Check.above("first beats second", interval)   the same as a line to print and to keep; also Check.equal(..., to=1.0)

The bootstrap resamples seeds and, within each of them, items. With three seeds it can't see how rare seeds behave; so a
direction counts only if every single seed has it too (`Interval.above`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Outcomes = Sequence[Sequence[float] | np.ndarray]
"""One sequence of item outcomes per seed."""


class Interval(NamedTuple):
    """An estimate with a 95 % interval.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.
        worst: the lowest mean of a single seed.
    """

    mean: float
    low: float
    high: float
    worst: float

    def above(self, bound: float) -> bool:
        """Whether the interval and the worst seed are above a bound."""
        return self.low > bound and self.worst > bound

    def times(self, factor: float) -> "Interval":
        """In another unit, by a positive factor: 100 for percent."""
        return Interval(*(factor * each for each in self))

    def percent(self) -> str:
        """For a table, in percent."""
        return f"{100 * self.mean:z.0f} ({100 * self.low:z.0f} to {100 * self.high:z.0f})"  # no -0

    def __str__(self) -> str:
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Check:
    """What is claimed, and whether a measurement says so; `above` and `equal` make one.

    Args:
        claim: in words.
        measured: what was found.
        rule: that it is held to, in words.
        holds: whether it keeps the rule.
        expected: whether a run fails without it; false for what was published and didn't hold here before.
    """

    claim: str
    measured: Interval
    rule: str
    holds: bool
    expected: bool = True

    @classmethod
    def above(cls, claim: str, measured: Interval, bound: float = 0.0, expected: bool = True) -> "Check":
        """A direction: the measured interval, and every seed, must lie above a bound."""
        rule = f"its 95 % interval and every seed must lie above {bound:g}"
        return cls(claim, measured, rule, measured.above(bound), expected)

    @classmethod
    def equal(cls, claim: str, measured: Interval, to: float, expected: bool = True) -> "Check":
        """Agreement with a number: the measured interval must hold it, which a wide one does easily."""
        holds = measured.low <= to <= measured.high
        return cls(claim, measured, f"its 95 % interval must hold {to:g}", holds, expected)

    def written(self) -> dict[str, Any]:
        """For a JSON file."""
        found = {"claim": self.claim, "measured": self.measured._asdict(), "rule": self.rule, "holds": self.holds}
        return found if self.expected else {**found, "expected": False}

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'DOES NOT HOLD'}: {self.claim}: {self.measured} ({self.rule})"


def record(checks: Sequence[Check], numbers: Mapping[str, Interval]) -> dict[str, Any]:
    """What a run leaves in its JSON file for ``llada reproduce``.

    Args:
        checks: that were made.
        numbers: that were published, too, as they were measured here; by what they are.
    """
    measured = {name: number._asdict() for name, number in numbers.items()}
    return {"checks": [check.written() for check in checks], "numbers": measured}


def wilson(successes: float, trials: int, z: float = 1.959964) -> Interval:
    """Wilson's score interval of a share: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Args:
        successes: number of successes.
        trials: n, 1 or more, independent.
        z: quantile of the normal distribution; the default gives 95 %.

    Raises:
        ValueError: if the numbers aren't 0 <= successes <= trials and trials >= 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1; got {successes} of {trials}")
    share, square = successes / trials, z * z / trials
    middle, half = share + square / 2, z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
    return Interval(share, low, high, share)


def mean_over_seeds(outcomes: Outcomes, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of the seeds' means, with a bootstrap over seeds and items.

    Shares of 0 or 1 in all items leave a bootstrap nothing to resample; Wilson's interval of all items then takes its
    place, as it does where it is wider.

    Args:
        outcomes: one sequence per seed.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: if there is no outcome in one of the seeds.
    """
    runs = [np.asarray(run, dtype=np.float64) for run in outcomes]
    interval = _bootstrap(runs, draws, seed)
    items = np.concatenate(runs)
    if not np.isin(items, (0.0, 1.0)).all():
        return interval
    share = wilson(float(items.sum()), len(items))
    return interval._replace(low=min(interval.low, share.low), high=max(interval.high, share.high))


def difference_over_seeds(first: Outcomes, second: Outcomes, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of first - second, paired: item i of seed s in one belongs to item i of seed s in the other.

    Args:
        first: one sequence per seed.
        second: likewise, of the same lengths.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: if the two don't pair up.
    """
    if [len(run) for run in first] != [len(run) for run in second]:
        raise ValueError("the outcomes must pair up: the same seeds, and as many items in each")
    pairs = zip(first, second, strict=True)
    return _bootstrap([np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in pairs], draws, seed)


def _bootstrap(runs: list[np.ndarray], draws: int, seed: int) -> Interval:
    """Percentiles of the mean of means; seeds are drawn with replacement, then items in each drawn seed."""
    if not runs or not all(len(run) for run in runs):
        raise ValueError("need at least one seed, and at least one item in each")
    random = np.random.default_rng(seed)
    resampled = np.stack([run[random.integers(len(run), size=(draws, len(runs), len(run)))].mean(2) for run in runs])
    chosen = random.integers(len(runs), size=(draws, len(runs)))
    places = np.arange(draws)[:, None], np.arange(len(runs))[None]
    means = resampled[chosen, places[0], places[1]].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    single = [float(run.mean()) for run in runs]
    return Interval(float(np.mean(single)), float(low), float(high), min(single))
