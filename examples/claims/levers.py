"""What lowers the price of masked diffusion: each lever alone, all together, and all but one, at equal compute.

    python -m examples.claims.levers            (about six minutes of one core; --quick: half a minute)

The figure is how many times the compute of the next-token twin a recipe needs for the loss that it reaches. The twin
has the same size, convolution and tuning (examples/claims/tuning.py); its curve comes from runs at several computes.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from examples.claims.price import gain, ratio
from examples.claims.report import Report, command_line
from examples.claims.statistics import Interval, mean_over_seeds
from examples.claims.text import Text
from examples.claims.text_runs import COST, Arm, Runs, Size
from llada.noise import StratifiedTimes, UniformTimes
from llada.objectives import (
    NELBO,
    Blockwise,
    ComplementaryPairs,
    ExactCounts,
    IndependentMasks,
    PerScored,
    UnitWeight,
    llada_pretraining,
    masked_mean,
)

SIZE, COMPUTE = Size(24, 1), 1.2e10
SPLITS = 2.0 ** -np.arange(5.0, -1.0, -1.0)  # the twin's computes, as shares of COMPUTE
UNIT = {"weight": UnitWeight(), "normaliser": PerScored()}

TWIN = Arm("next token", None, rate=2e-2)
BASE = Arm("LLaDA's loss", llada_pretraining(), convolution=0)
TOGETHER = Arm("together", NELBO(ComplementaryPairs(StratifiedTimes(0.2, 0.8)), **UNIT), rows=2)
# The levers that help beside one another, by the table of this module.
CHOSEN = Arm("convolution and unit weight", masked_mean(0.05, 0.8))
# One step towards the twin: convolution, exact counts and joint strata, with rows written two tokens at a time.
BLOCKS = Arm("in blocks of 2", NELBO(Blockwise()), block_length=2, rate=2e-2)


def with_base(name: str, **parts: object) -> Arm:
    """LLaDA's loss with one lever."""
    return replace(BASE, name=f"+ {name}", **parts)


ALONE = [
    with_base("short convolution", convolution=5),
    with_base("exact counts, joint strata", objective=NELBO(ExactCounts())),
    with_base("complementary masks", objective=NELBO(ComplementaryPairs(UniformTimes())), rows=2),
    with_base("unit weight, noise in [0.05, 0.8]", objective=NELBO(IndependentMasks(UniformTimes(0.05, 0.8)), **UNIT)),
    with_base(
        "unit weight, noise widening", objective=NELBO(IndependentMasks(UniformTimes()), **UNIT), widening=(0.05, 0.6)
    ),
    with_base("Muon", muon=True),
    with_base("blocks of 2", objective=NELBO(Blockwise()), block_length=2),
]
WITH_CONVOLUTION = [
    replace(arm, name=arm.name.replace("+ ", "+ convolution, "), convolution=5)
    for arm in ALONE
    if arm.block_length is None
][1:]
WITHOUT = [
    replace(TOGETHER, name="together - convolution", convolution=0),
    replace(TOGETHER, name="together - unit weight", objective=NELBO(ComplementaryPairs(StratifiedTimes(0.2, 0.8)))),
    replace(TOGETHER, name="together + Muon", muon=True),
    replace(TOGETHER, name="together, window of 9", convolution=9),
    replace(BLOCKS, name="in blocks of 4", objective=NELBO(Blockwise()), block_length=4),
]


class Prices:
    """Ratios against one twin's curve.

    Args:
        runs: what was measured.
        size: of all models.
        compute: of every recipe.
        seeds: of every run.
    """

    def __init__(self, runs: Runs, size: Size, compute: float, seeds: list[int]) -> None:
        self.runs, self.size, self.compute, self.seeds = runs, size, compute, seeds
        runs.fill((TWIN, size, compute * share, seed) for share in SPLITS for seed in seeds)
        points = [[runs.point(TWIN, size, compute * share, seed) for seed in seeds] for share in SPLITS]
        self.computes = np.array([run[0].flops for run in points])
        self.curve = [np.array([point.nats for point in run]) for run in points]

    def points(self) -> Iterator[tuple[float, np.ndarray]]:
        """Compute and nats (seeds, rows) of the twin's runs."""
        return zip(self.computes.tolist(), self.curve, strict=True)

    def nats(self, arm: Arm) -> np.ndarray:
        """(seeds, rows)."""
        return self.runs.nats(arm, self.size, self.compute, self.seeds)

    def ratio(self, arm: Arm) -> Interval:
        """How many times the twin's compute."""
        flops = self.runs.point(arm, self.size, self.compute, self.seeds[0]).flops
        return ratio(flops, self.nats(arm), self.computes, self.curve)

    def row(self, arm: Arm) -> list[object]:
        """A line of the table; a loss that even the twin's shortest run beats has a ratio of at least so much."""
        point, nats = self.runs.point(arm, self.size, self.compute, self.seeds[0]), self.nats(arm)
        beyond = "over " if nats.mean() >= self.curve[0].mean() else ""
        bits = nats.mean() / math.log(2.0) / self.runs.text.bytes_per_token
        return [arm.name, point.steps, str(mean_over_seeds(nats)), f"{bits:.3f}", f"{beyond}{self.ratio(arm)}"]


def draw(axes: Any, prices: Prices, arms: list[Arm]) -> None:
    """The twin's curve, and where each recipe stands beside it."""
    axes.semilogx(prices.computes, [point.mean() for point in prices.curve], "o-k", label=TWIN.name)
    for arm in arms:
        loss = prices.nats(arm).mean()
        axes.plot([prices.compute], [loss], "s", label=f"{arm.name}: {prices.ratio(arm).mean:.1f} times")
    axes.set_xlabel("training operations")
    axes.set_ylabel("nats per token, held out")
    axes.legend(fontsize=8)


def main() -> None:
    """Measure, print, and fail if the levers together don't lower the price."""
    options = command_line(__doc__, jobs=True)
    report = Report("levers", options.seeds, options.quick)
    runs = Runs(Text(options.folder), options.folder, jobs=options.jobs)
    compute = COMPUTE / 2 if options.quick else COMPUTE
    prices = Prices(runs, SIZE, compute, options.seeds)
    twin = [["next token", run.shape[0], f"{flops:.2g}", str(mean_over_seeds(run))] for flops, run in prices.points()]
    report.table("The twin", ["model", "seeds", "operations", "nats per token"], twin)
    head = ["recipe", "steps", "nats per token", "bits per byte", "times the twin's compute"]
    arms = [] if options.quick else [*ALONE, *WITH_CONVOLUTION, *WITHOUT]
    shown = [BASE, TOGETHER, CHOSEN, BLOCKS]
    report.table(f"At {compute:.2g} operations", head, [prices.row(arm) for arm in [*shown, *arms]])
    for arm in (TOGETHER, CHOSEN, BLOCKS):
        report.check(f"{arm.name}: lower loss than {BASE.name}", gain(prices.nats(arm), prices.nats(BASE)))
        report.check(f"{arm.name}: the twin has a lower loss still", gain(prices.curve[-1], prices.nats(arm)))
        report.check(f"{arm.name}: more than the twin's compute", prices.ratio(arm), above=1.0)
    report.table("Cost", COST, [runs.cost()])
    draw(report.picture(size=(7.0, 3.6))[0], prices, shown)
    report.finish(options.folder)


if __name__ == "__main__":
    main()
