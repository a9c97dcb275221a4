"""The plot of why_backpropagation.py: cost against N, error against the step, memory against recomputation."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

METHODS = {"one-sided": "C0", "central": "C1", "forward mode": "C2"}


def draw(results: Any, target: float, path: Path) -> None:
    """Write the plot.

    Args:
        results: of `why_backpropagation.measure`.
        target: ratio that is marked.
        path: of the picture.
    """
    figure, (cost, error, memory) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    draw_cost(cost, results, target)
    draw_error(error, results)
    draw_memory(memory, results)
    for axes in (cost, error, memory):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_cost(axes: Any, results: Any, target: float) -> None:
    """Time of a gradient over that of reverse mode; measured where all of it was computed."""
    law = {each.method: each.seconds[-1] for each in results.laws}
    counts = [size.count for size in results.sizes]
    for name, color in METHODS.items():
        ratios = [size.ratio(name) for size in results.sizes]
        end = target * counts[-1] / ratios[-1]  # on in proportion to N, where nothing was run
        axes.plot(counts, ratios, "o", color=color, mfc="none", label=f"{name}, extrapolated from 64 entries")
        axes.plot([counts[-1], end], [ratios[-1], target], ":", color=color)
        axes.plot(results.counts[-1], law[name] / law["reverse mode"], "o", color=color, label=f"{name}, measured")
    axes.axhline(target, color="0.5", linestyle="--", linewidth=1)
    axes.text(counts[0], target, "10,000,000: not measured", fontsize=8, va="bottom")
    axes.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="time of the gradient ÷ reverse mode")
    axes.legend(fontsize=7)


def draw_error(axes: Any, results: Any) -> None:
    """The V of truncation and rounding; a triangle marks the predicted minimum."""
    for valley, style in zip(results.valleys, ("-", "--"), strict=True):
        for name, color, curve, best in zip(
            ("one-sided", "central"), ("C0", "C1"), (valley.one_sided, valley.central), valley.predicted, strict=True
        ):
            axes.plot(valley.steps, curve, style, color=color, label=f"{name}, {valley.dtype}")
            axes.plot([best], [min(curve)], "^", color=color)
    axes.set(xscale="log", yscale="log", xlabel="step h", ylabel="relative error of the derivative", ylim=(1e-12, 10))
    axes.legend(fontsize=7)


def draw_memory(axes: Any, results: Any) -> None:
    """Bytes kept, and time, for each way of recomputing."""
    plain = results.memory[0].time.median
    for kept in results.memory:
        time = kept.time.median / plain
        axes.plot(kept.saved / 1e6, time, "o", color="C3")
        axes.plot(kept.peak / 1e6, time, "s", color="C4", mfc="none")
        axes.annotate(kept.name, (kept.peak / 1e6, time), fontsize=7, xytext=(5, 4), textcoords="offset points")
    axes.plot([], [], "o", color="C3", label="kept from the forward pass")
    axes.plot([], [], "s", color="C4", mfc="none", label="and one segment, computed again")
    axes.set(xscale="log", xlabel="MB", ylabel="time ÷ everything kept")
    axes.legend(fontsize=7)
