"""Loss against compute for five sizes of each model, and how much more compute diffusion needs for the same loss.

    python -m examples.claims.scaling           (about ten minutes of one core; --quick: two)

Sizes and computes grow together. A line log loss = a - b log C is fitted to each model, and the ratio of computes is
the distance of two lines at a loss that both have reached.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from examples.claims.levers import BLOCKS, TOGETHER, TWIN
from examples.claims.price import bootstrap
from examples.claims.report import Report, command_line
from examples.claims.statistics import Interval, mean_over_seeds
from examples.claims.text import Text
from examples.claims.text_runs import COST, Arm, Runs, Size

LADDER = [(Size(16, 1), 5e9), (Size(24, 1), 1.2e10), (Size(32, 1), 2.5e10), (Size(48, 1), 5e10), (Size(64, 1), 1e11)]
TWIN_SHARE = 0.5  # of the ladder's computes, so that both models come by the same losses
ARMS = [TWIN, TOGETHER, BLOCKS]
Mean = Callable[[np.ndarray], float]


class Ladder:
    """The runs of one recipe.

    Args:
        runs: what was measured.
        arm: the recipe.
        steps: sizes, and the compute of each.
        seeds: of every run.
    """

    def __init__(self, runs: Runs, arm: Arm, steps: list[tuple[Size, float]], seeds: list[int]) -> None:
        self.arm = arm
        points = [[runs.point(arm, size, compute, seed) for seed in seeds] for size, compute in steps]
        self.flops = np.array([run[0].flops for run in points])
        self.parameters = [run[0].parameters for run in points]
        self.steps = [run[0].steps for run in points]
        self.nats = [np.array([point.nats for point in run]) for run in points]
        """(seeds, rows) of each rung."""

    def line(self, mean: Mean) -> tuple[float, float]:
        """Slope and intercept of log loss over log compute."""
        slope, intercept = np.polyfit(np.log(self.flops), np.log([mean(nats) for nats in self.nats]), 1)
        return float(slope), float(intercept)

    def compute(self, loss: float, mean: Mean) -> float:
        """Where the line reaches a loss."""
        slope, intercept = self.line(mean)
        return float(np.exp((np.log(loss) - intercept) / slope))

    def slope(self) -> Interval:
        """By how much a factor e of compute lowers the log of the loss."""
        return _interval(lambda mean: -self.line(mean)[0], self.nats[0].shape)


def ratio(ladder: Ladder, twin: Ladder, loss: float) -> Interval:
    """Compute of one ladder over that of the other at the same loss."""
    return _interval(lambda mean: ladder.compute(loss, mean) / twin.compute(loss, mean), twin.nats[0].shape)


def _interval(value: Callable[[Mean], float], shape: tuple[int, ...]) -> Interval:
    low, high = np.quantile(bootstrap(value, *shape), (0.025, 0.975))
    singles = [value(lambda nats, seed=seed: float(nats[seed].mean())) for seed in range(shape[0])]  # type: ignore[misc]
    return Interval(value(lambda nats: float(nats.mean())), float(low), float(high), min(singles))


def common_losses(ladders: list[Ladder]) -> list[float]:
    """Three losses that every ladder has on its way: the ends of the range, and their middle.

    Raises:
        ValueError: if there is none.
    """
    means = [[float(nats.mean()) for nats in ladder.nats] for ladder in ladders]
    high, low = min(max(run) for run in means), max(min(run) for run in means)
    if low >= high:
        raise ValueError(f"no loss is common to all ladders: the worst begins at {high:.3f} and one ends at {low:.3f}")
    return [high, (high * low) ** 0.5, low]


def draw(axes: Any, ladders: list[Ladder]) -> None:
    """Points with their intervals, and lines."""
    for colour, ladder in zip(("k", "C0", "C1"), ladders, strict=True):
        means = [mean_over_seeds(nats) for nats in ladder.nats]
        losses = np.array([mean.mean for mean in means])
        bars = [losses - [mean.low for mean in means], [mean.high for mean in means] - losses]
        axes.errorbar(ladder.flops, losses, bars, fmt="o", color=colour, label=ladder.arm.name)
        slope, intercept = ladder.line(lambda nats: float(nats.mean()))
        axes.plot(ladder.flops, np.exp(intercept) * ladder.flops**slope, color=colour, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training operations")
    axes.set_ylabel("nats per token, held out")
    axes.legend(fontsize=8)


def main() -> None:
    """Measure, print, and fail if the order of the models isn't the expected one."""
    options = command_line(__doc__)
    report, runs = Report("scaling", options.seeds, options.quick), Runs(Text(options.folder), options.folder)
    steps = [(size, compute / 2) for size, compute in LADDER[1:4]] if options.quick else LADDER
    shares = [TWIN_SHARE, 1.0, 1.0]
    ladders = [
        Ladder(runs, arm, [(size, compute * share) for size, compute in steps], options.seeds)
        for arm, share in zip(ARMS, shares, strict=True)
    ]
    lines = [
        [
            ladder.arm.name,
            f"{size.width} x {size.num_layers}",
            parameters,
            number,
            f"{flops:.3g}",
            mean_over_seeds(nats),
        ]
        for ladder in ladders
        for (size, _), parameters, number, flops, nats in zip(
            steps, ladder.parameters, ladder.steps, ladder.flops, ladder.nats, strict=True
        )
    ]
    report.table("Runs", ["recipe", "width x layers", "parameters", "steps", "operations", "nats per token"], lines)
    twin, *others = ladders
    losses = common_losses(ladders)
    ratios = {ladder.arm.name: [ratio(ladder, twin, loss) for loss in losses] for ladder in others}
    head = ["recipe", "slope of log loss", *(f"times the compute at {loss:.2f} nats" for loss in losses)]
    fits = [[ladder.arm.name, ladder.slope(), *ratios.get(ladder.arm.name, ["1"] * 3)] for ladder in ladders]
    report.table("Lines", head, fits)
    for ladder in others:
        name = ladder.arm.name
        report.check(f"{name}: more than the twin's compute for {losses[1]:.2f} nats", ratios[name][1], above=1.0)
    report.table("Cost", COST, [runs.cost()])
    with report.picture() as axes:
        draw(axes, ladders)
    report.finish(options.folder)


if __name__ == "__main__":
    main()
