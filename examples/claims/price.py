"""How much more compute diffusion needs than its twin for the same loss.

    curve = [nats of the twin at rising computes]           each (seeds, rows)
    ratio(flops, nats, computes, curve)                     an interval

The twin's loss is interpolated between its runs, linearly in log compute. The ratio C / C_twin(loss) is bootstrapped
over seeds, of the two models apart, and over held-out rows, the same for both since both score the same.
"""

from collections.abc import Callable, Sequence

import numpy as np

from examples.claims.statistics import Interval

DRAWS = 1000


def twin_compute(loss: float | np.ndarray, computes: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Compute at which the twin reaches a loss; beyond its curve the curve's end, so a worse loss gets too low a ratio.

    Args:
        loss: nats per token, any shape.
        computes: (points,) rising.
        losses: (points,); made to fall if chance makes one rise.
    """
    falling = np.minimum.accumulate(losses)
    return np.exp(np.interp(-np.asarray(loss), -falling, np.log(computes)))


def bootstrap(value: Callable[[Callable[[np.ndarray], float]], float], seeds: int, rows: int) -> np.ndarray:
    """Draws of a number that is computed from means of (seeds, rows) outcomes.

    Args:
        value: gets a function that averages such an array over a resampling of its seeds and rows.
        seeds: of each array; resampled for each array on its own.
        rows: resampled once per draw, so that all arrays keep the same ones.
    """
    random = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        weights = np.bincount(random.integers(rows, size=rows), minlength=rows) / rows

        def mean(nats: np.ndarray, weights: np.ndarray = weights) -> float:
            return float(nats[random.integers(seeds, size=seeds)].mean(0) @ weights)

        draws.append(value(mean))
    return np.array(draws)


def ratio(flops: float, nats: np.ndarray, computes: np.ndarray, curve: Sequence[np.ndarray]) -> Interval:
    """Compute of a run over that of the twin at the same loss.

    Args:
        flops: of the run.
        nats: (seeds, rows) of it.
        computes: (points,) rising, of the twin's runs.
        curve: their nats, (seeds, rows) each.
    """

    def value(mean: Callable[[np.ndarray], float]) -> float:
        return flops / float(twin_compute(mean(nats), computes, np.array([mean(point) for point in curve])))

    losses = np.array([point.mean() for point in curve])
    return _interval(value, nats, [flops / float(twin_compute(run.mean(), computes, losses)) for run in nats])


def gain(nats: np.ndarray, base: np.ndarray) -> Interval:
    """Nats per token that one arm is below another, both (seeds, rows); seeds in pairs for the worst."""

    def value(mean: Callable[[np.ndarray], float]) -> float:
        return mean(base) - mean(nats)

    return _interval(value, nats, list(base.mean(1) - nats.mean(1)))


def _interval(value: Callable[..., float], nats: np.ndarray, single: Sequence[float]) -> Interval:
    low, high = np.quantile(bootstrap(value, *nats.shape), (0.025, 0.975))
    return Interval(value(np.mean), float(low), float(high), float(min(single)))
