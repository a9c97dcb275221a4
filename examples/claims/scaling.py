"""Loss against compute for five sizes of each model, and how much more compute diffusion needs for the same loss.

    python -m examples.claims.scaling           (about five minutes of one core; --quick: one)

Sizes and computes grow together. A line log loss = a - b log C is fitted to each model; the ratio of computes is the
distance of two lines at a loss that both have reached. Beside it stands the ratio of each run to the twin's runs,
interpolated between them, which assumes no line.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from examples.claims import price
from examples.claims.levers import BLOCKS, CHOSEN, TWIN
from examples.claims.price import bootstrap
from examples.claims.report import Report, command_line
from examples.claims.statistics import Interval, mean_over_seeds
from examples.claims.text import Text
from examples.claims.text_runs import COST, Arm, Runs, Size

LADDER = [(Size(16, 1), 5e9), (Size(24, 1), 1.2e10), (Size(32, 1), 2.5e10), (Size(48, 1), 5e10), (Size(64, 1), 1e11)]
TWIN_SHARE = 0.5  # of the ladder's computes, so that both models come by the same losses
ARMS = [TWIN, CHOSEN, BLOCKS]
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
        runs.fill((arm, size, compute, seed) for size, compute in steps for seed in seeds)
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


def prices(ladder: Ladder, twin: Ladder) -> list[Interval]:
    """Of each rung: its compute over that of the twin at its loss, interpolated between the twin's runs."""
    return [price.ratio(*rung, twin.flops, twin.nats) for rung in zip(ladder.flops, ladder.nats, strict=True)]


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


def draw(axes: Any, ladders: list[Ladder], ratios: dict[str, list[Interval]]) -> None:
    """Left: points with their intervals, and lines. Right: the price of each rung."""
    for colour, ladder in zip(("k", "C0", "C1"), ladders, strict=True):
        draw_points(axes[0], ladder.flops, [mean_over_seeds(nats) for nats in ladder.nats], ladder.arm.name, colour)
        slope, intercept = ladder.line(lambda nats: float(nats.mean()))
        axes[0].plot(ladder.flops, np.exp(intercept) * ladder.flops**slope, color=colour, linewidth=1)
        if ladder.arm.name in ratios:
            draw_points(axes[1], ladder.flops, ratios[ladder.arm.name], ladder.arm.name, colour)
    for axis, label in zip(
        axes, ("nats per token, held out", "times the twin's compute for the same loss"), strict=True
    ):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_xlabel("training operations")
        axis.set_ylabel(label)
        axis.legend(fontsize=8)


def draw_points(axis: Any, flops: np.ndarray, intervals: list[Interval], label: str, colour: str) -> None:
    """Means with error bars."""
    means = np.array([interval.mean for interval in intervals])
    bars = [means - [interval.low for interval in intervals], [interval.high for interval in intervals] - means]
    axis.errorbar(flops, means, bars, fmt="o", color=colour, label=label)


def table_of_runs(report: Report, ladders: list[Ladder], sizes: list[Size], ratios: dict[str, list[Interval]]) -> None:
    """A line per rung."""
    lines = []
    for ladder in ladders:
        costs: list[Any] = list(ratios.get(ladder.arm.name, [""] * len(sizes)))
        columns = (sizes, ladder.parameters, ladder.steps, ladder.flops, ladder.nats, costs)
        for size, parameters, steps, flops, nats, cost in zip(*columns, strict=True):
            shape = f"{size.width} x {size.num_layers}"
            lines.append([ladder.arm.name, shape, parameters, steps, f"{flops:.3g}", mean_over_seeds(nats), cost])
    head = [
        "recipe",
        "width x layers",
        "parameters",
        "steps",
        "operations",
        "nats per token",
        "times the twin's compute",
    ]
    report.table("Runs", head, lines)


def main() -> None:
    """Measure, print, and fail if the order of the models isn't the expected one."""
    options = command_line(__doc__, jobs=True)
    report = Report("scaling", options.seeds, options.quick)
    runs = Runs(Text(options.folder), options.folder, jobs=options.jobs)
    steps = [(size, compute / 2) for size, compute in LADDER[1:4]] if options.quick else LADDER
    shares = [TWIN_SHARE, 1.0, 1.0]
    ladders = [
        Ladder(runs, arm, [(size, compute * share) for size, compute in steps], options.seeds)
        for arm, share in zip(ARMS, shares, strict=True)
    ]
    twin, *others = ladders
    interpolated = {ladder.arm.name: prices(ladder, twin) for ladder in others}
    table_of_runs(report, ladders, [size for size, _ in steps], interpolated)
    losses = common_losses(ladders)
    ratios = {ladder.arm.name: [ratio(ladder, twin, loss) for loss in losses] for ladder in others}
    head = ["recipe", "slope of log loss", *(f"times the compute at {loss:.2f} nats" for loss in losses)]
    fits = [[ladder.arm.name, ladder.slope(), *ratios.get(ladder.arm.name, ["1"] * 3)] for ladder in ladders]
    report.table("Lines", head, fits)
    for ladder in others:
        name = ladder.arm.name
        report.check(f"{name}: more than the twin's compute for {losses[1]:.2f} nats", ratios[name][1], above=1.0)
        report.check(f"{name}: and for the loss of its largest run", interpolated[name][-1], above=1.0)
    report.table("Cost", COST, [runs.cost()])
    draw(report.picture(columns=2), ladders, interpolated)
    report.finish(options.folder)


if __name__ == "__main__":
    main()
