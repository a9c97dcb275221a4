"""Loss against compute over three decades, each model at its own best size, and how much more compute diffusion needs.

    python -m examples.claims.scaling           (3 hours of one core, resumable; --quick: a minute, three sizes
                                                 that aren't searched; --most 1e+12: up to so many operations)

At every compute each recipe climbs to the size, rate and batch that are best for it, with a seed of its own; what is
told is of other seeds. A line log loss = a - b log C is fitted to each; the ratio of computes is the distance of two
lines at a loss that both have reached. Beside it stands the ratio of each run to the twin's runs, interpolated between
them, which assumes no line, for the bound and for exact likelihoods of decoding one token per call.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator

from examples.claims import price
from examples.claims.compute_optimal import SIZES, Choice, Climb
from examples.claims.levers import BLOCKS, CHOSEN, TWIN
from examples.claims.price import bootstrap
from examples.claims.report import Report, command_line
from examples.claims.statistics import Interval, mean_over_seeds
from examples.claims.text import Text
from examples.claims.text_models import DECODED_ROWS, ORDERS
from examples.claims.text_runs import COST, Arm, Runs, Size

COMPUTES = (1e10, 3e10, 1e11, 3e11, 1e12, 3e12, 1e13)
QUICK = ((Size(24, 1), 6e9), (Size(32, 1), 1.25e10), (Size(48, 1), 2.5e10))
TWIN_SHARE = 0.5  # of the computes, so that both models come by the same losses
LOWEST = 1.5e9  # a further compute of the twin, so that the worst losses of the others lie on its curve, too
ARMS = {TWIN: TWIN_SHARE, CHOSEN: 1.0, BLOCKS: 1.0}
SEARCH_SEED = 100
Mean = Callable[[np.ndarray], float]
Rungs = list[tuple[Choice, float]]


class Ladder:
    """The runs of one recipe.

    Args:
        runs: what was measured.
        rungs: size, rate and batch, and the compute of each; from the lowest compute up.
        seeds: of every run.
        decode: whether exact likelihoods of decoding are measured.
    """

    def __init__(self, runs: Runs, rungs: Rungs, seeds: list[int], decode: bool = False) -> None:
        self.rungs, self.name = rungs, rungs[0][0].arm.name
        runs.fill(((choice.arm, choice.size, compute, seed) for choice, compute in rungs for seed in seeds), decode)
        self.points = [
            [runs.point(choice.arm, choice.size, compute, seed, decode) for seed in seeds] for choice, compute in rungs
        ]
        self.flops = np.array([run[0].flops for run in self.points])
        self.nats = [np.array([point.nats for point in run]) for run in self.points]
        """(seeds, rows) of each rung."""

    def exactly(self, order: str) -> "Ladder":
        """The same by exact nats per token of decoding in an order, of the first rows."""
        found = copy(self)
        found.name = f"{self.name}, exact, {order}"
        found.nats = [np.array([point.decoded[order] for point in run]) for run in self.points]
        return found

    def above(self, rung: int) -> "Ladder":
        """Without the lowest rungs."""
        found = copy(self)
        found.rungs, found.points, found.flops = self.rungs[rung:], self.points[rung:], self.flops[rung:]
        found.nats = self.nats[rung:]
        return found

    def line(self, mean: Mean, rungs: slice = slice(None)) -> tuple[float, float]:
        """Slope and intercept of log loss over log compute, of all rungs or some."""
        losses = [mean(nats) for nats in self.nats[rungs]]
        slope, intercept = np.polyfit(np.log(self.flops[rungs]), np.log(losses), 1)
        return float(slope), float(intercept)

    def compute(self, loss: float, mean: Mean) -> float:
        """Where the line reaches a loss."""
        slope, intercept = self.line(mean)
        return float(np.exp((np.log(loss) - intercept) / slope))

    def slope(self, rungs: slice = slice(None)) -> Interval:
        """By how much a factor e of compute lowers the log of the loss, over all rungs or some."""
        return _interval(lambda mean: -self.line(mean, rungs)[0], self.nats[0].shape)


def prices(ladder: Ladder, twin: Ladder) -> list[Interval]:
    """Of each rung: its compute over that of the twin at its loss, interpolated between the twin's runs."""
    return [price.ratio(*rung, twin.flops, twin.nats) for rung in zip(ladder.flops, ladder.nats, strict=True)]


def ratio(ladder: Ladder, twin: Ladder, loss: float) -> Interval:
    """Compute of one ladder over that of the other at the same loss."""
    return _interval(lambda mean: ladder.compute(loss, mean) / twin.compute(loss, mean), twin.nats[0].shape)


def slopes(ladder: Ladder, twin: Ladder) -> Interval:
    """Slope of one ladder over that of the other."""
    return _interval(lambda mean: ladder.line(mean)[0] / twin.line(mean)[0], twin.nats[0].shape)


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
        draw_points(axes[0], ladder.flops, [mean_over_seeds(nats) for nats in ladder.nats], ladder.name, colour)
        line = ladder if ladder.name in ratios else ladder.above(1)
        slope, intercept = line.line(lambda nats: float(nats.mean()))
        axes[0].plot(line.flops, np.exp(intercept) * line.flops**slope, color=colour, linewidth=1)
        if ladder.name in ratios:
            draw_points(axes[1], ladder.flops, ratios[ladder.name], ladder.name, colour)
    for axis, label in zip(axes, ("nats per token, held out", "times the twin's compute"), strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))  # labels of all would run into one another
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_xlabel("training operations")
        axis.set_ylabel(label)
        axis.legend(fontsize=8)


def takeaway(ratios: dict[str, list[Interval]]) -> str:
    """What the picture says, from the numbers."""
    ends = (f"{name}: {prices[0].mean:.2g} to {prices[-1].mean:.2g}" for name, prices in ratios.items())
    return f"Times the twin's compute for its loss, along the ladder:\n{', '.join(ends)}"


def draw_points(axis: Any, flops: np.ndarray, intervals: list[Interval], label: str, colour: str) -> None:
    """Means with error bars."""
    means = np.array([interval.mean for interval in intervals])
    bars = [means - [interval.low for interval in intervals], [interval.high for interval in intervals] - means]
    axis.errorbar(flops, means, bars, fmt="o", color=colour, label=label)


def table_of_runs(report: Report, ladders: list[Ladder], ratios: dict[str, list[Interval]], rows: int) -> None:
    """A line per rung; ``rows`` is how many there are to read."""
    lines = []
    for ladder in ladders:
        costs: list[Any] = list(ratios.get(ladder.name, [""] * len(ladder.rungs)))
        for (choice, _), points, nats, cost in zip(ladder.rungs, ladder.points, ladder.nats, costs, strict=True):
            first = points[0]
            passes = first.steps * choice.arm.rows / rows
            settings = [f"{choice.size.width} x {choice.size.num_layers}", first.parameters, f"{choice.arm.rate:g}"]
            line = [*settings, choice.arm.rows, first.steps, f"{passes:.2g}", f"{first.flops:.3g}"]
            lines.append([ladder.name, *line, mean_over_seeds(nats), cost])
    sizes = ["width x layers", "parameters", "rate at width 64", "rows per step", "steps", "passes over the text"]
    report.table("Runs", ["recipe", *sizes, "operations", "nats per token", "times the twin's compute"], lines)


def table_of_exact(report: Report, ladders: list[Ladder], twin: Ladder) -> None:
    """The same rows by the bound and by exact likelihoods, and what the latter cost in the twin's compute."""
    curve, lines = [nats[:, :DECODED_ROWS] for nats in twin.nats], []
    for ladder in ladders:
        exact = {order: ladder.exactly(order).nats for order in ladder.points[0][0].decoded}
        for place, flops in enumerate(ladder.flops):
            bound, first = ladder.nats[place][:, :DECODED_ROWS], exact["left to right"][place]
            losses = [mean_over_seeds(exact[order][place]) if order in exact else "" for order in ORDERS]
            costs = [price.ratio(flops, nats, twin.flops, curve) for nats in (bound, first)]
            lines.append([ladder.name, f"{flops:.3g}", mean_over_seeds(bound), *losses, *costs])
    exactly = [f"exact, {order}" for order in ORDERS]
    report.table(
        f"The first {DECODED_ROWS} rows, by the bound and exactly",
        ["recipe", "operations", "bound", *exactly, "times the twin's compute, bound", "left to right"],
        lines,
    )


def table_of_lines(
    report: Report, ladders: list[Ladder], losses: list[float], decoded: list[Ladder]
) -> dict[str, list[Interval]]:
    """Slopes, of all rungs and of both halves, and the distance of the lines; returns the distances."""
    twin, *others = ladders
    found = {ladder.name: [ratio(ladder, twin, loss) for loss in losses] for ladder in others}
    half = len(twin.rungs) // 2 + 1
    halves = (slice(None), slice(half), slice(-half, None))
    head = ["recipe", "slope of log loss", "lower half", "upper half"]
    head += [f"times the compute at {loss:.2f} nats" for loss in losses]
    distances = {twin.name: ["1"] * 3, **found}
    lines = [
        [ladder.name, *(ladder.slope(part) for part in halves), *distances.get(ladder.name, [""] * 3)]
        for ladder in (*ladders, *decoded)
    ]
    report.table("Lines", head, lines)
    return found


def searched(runs: Runs, computes: list[float], seeds: list[int], report: Report) -> list[Rungs]:
    """The best choices of every recipe at every compute; all that was tried is a table."""
    lines, found = [], []
    climbs = {arm: Climb(runs, SEARCH_SEED) for arm in ARMS}
    best = {arm: Choice(arm, SIZES[0]) for arm in ARMS}
    rungs: dict[Arm, Rungs] = {arm: [(best[arm], LOWEST)] if arm is TWIN else [] for arm in ARMS}
    for compute in computes:
        for arm, share in ARMS.items():
            best[arm] = climbs[arm].at(share * compute, best[arm])
            rungs[arm].append((best[arm], share * compute))
            Ladder(runs, rungs[arm][-1:], seeds, decode=True)  # now, so that a stopped command has whole rungs
    for arm, climb in climbs.items():
        lines += [[arm.name, f"{flops:.2g}", choice, f"{point.stopping:.3f}"] for flops, choice, point in climb.tried]
        found.append(rungs[arm])
    report.table("The searches", ["recipe", "operations", "size, rate at width 64, batch", "nats per token"], lines)
    return found


def main() -> None:
    """Measure, print, and fail if the order of the models isn't the expected one."""
    options = command_line(__doc__, choices={"most": [f"{compute:.0e}" for compute in COMPUTES[:1:-1]]}, jobs=True)
    report = Report("scaling", options.seeds, options.quick, options.chosen)
    text = Text(options.folder)
    runs = Runs(text, options.folder, jobs=options.jobs)
    if options.quick:
        rungs = [[(Choice(arm, size), share * flops) for size, flops in QUICK] for arm, share in ARMS.items()]
        rungs[0].insert(0, (Choice(TWIN, QUICK[0][0]), LOWEST))
    else:
        computes = [compute for compute in COMPUTES if compute <= float(options.most or COMPUTES[-1])]
        rungs = searched(runs, computes, options.seeds, report)
    ladders = [Ladder(runs, each, options.seeds, decode=not options.quick) for each in rungs]
    twin, *others = ladders
    interpolated = {ladder.name: prices(ladder, twin) for ladder in others}
    table_of_runs(report, ladders, interpolated, len(text.train))
    if not options.quick:
        table_of_exact(report, others, twin)
    lines = [twin.above(1), *others]
    losses = common_losses(lines)
    exact = [] if options.quick else [ladder.exactly("left to right") for ladder in others]
    ratios = table_of_lines(report, lines, losses, exact)
    for ladder in others:
        name = ladder.name
        report.check(f"{name}: more than the twin's compute for {losses[1]:.2f} nats", ratios[name][1], above=1.0)
        report.check(f"{name}: and for the loss of its largest run", interpolated[name][-1], above=1.0)
        slope = slopes(ladder, lines[0])
        report.equal(f"{name}: its slope of log loss is the twin's", slope, to=1.0, expected=False)  # as published
        report.number(f"{name}: times the twin's compute", interpolated[name][-1])
    report.table("Cost", COST, [runs.cost()])
    draw(report.picture(columns=2, title=takeaway(interpolated)), ladders, interpolated)
    report.finish(options.folder)


if __name__ == "__main__":
    main()
