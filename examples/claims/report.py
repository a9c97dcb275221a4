"""What a claim leaves behind: a table on the screen, NAME.json and NAME.png, and a failure if a direction doesn't hold.

    report = Report("reversal", seeds, quick)
    report.table("Exact match", ["model", "next line"], [["masked diffusion", "98 (95 to 99)"], ...])
    report.check("diffusion beats its twin in reverse", difference, above=0.0)
    report.number("poems backward, masked diffusion, %", share.times(100))     # to stand beside a published one
    axes = report.picture(columns=2)                   # then `bars` or `lines` draw into axes[0], axes[1]
    report.finish(folder)          # SystemExit if a check failed

`command_line` reads the options that all claims share: --quick, --seeds, --folder.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import matplotlib as mpl
import torch

import llada
from examples.claims.statistics import Check, Interval, record

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("tab:green", "tab:orange", "0.6", "tab:blue")


class Report:
    """Collects the results of one claim.

    Args:
        name: of the claim; of the files too.
        seeds: that were run.
        quick: whether this is the short form.
        chosen: further options that change what is measured, as they were typed.
    """

    def __init__(self, name: str, seeds: Sequence[int], quick: bool, chosen: Sequence[str] = ()) -> None:
        self.name, self.seeds, self.quick, self.chosen = name, list(seeds), quick, list(chosen)
        self.tables: list[str] = []
        self.results: dict[str, Any] = {}
        self.checks: list[Check] = []
        self.numbers: dict[str, Interval] = {}
        self.figure: plt.Figure | None = None
        self._started = time.time(), _processor_seconds()

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table in Markdown, and keep it."""
        lines = [" | ".join(map(str, line)) for line in (head, ["---"] * len(head), *rows)]
        self.tables.append("\n".join([f"**{title}**", "", *(f"| {line} |" for line in lines), ""]))
        self.results[title] = [dict(zip(head, map(str, row), strict=True)) for row in rows]
        print(f"\n{self.tables[-1]}", flush=True)

    def check(self, claim: str, measured: Interval, above: float = 0.0, expected: bool = True) -> None:
        """State a direction: the measured interval, and every seed, must lie above a bound.

        Args:
            claim: the direction, in words.
            measured: what was found.
            above: the bound.
            expected: whether `finish` fails without it; false for what was published and didn't hold here before.
        """
        self._hold(Check.above(claim, measured, above, expected))

    def equal(self, claim: str, measured: Interval, to: float, expected: bool = True) -> None:
        """State that a number is another: the measured interval must hold it; arguments as of `check`."""
        self._hold(Check.equal(claim, measured, to, expected))

    def number(self, name: str, measured: Interval) -> None:
        """Keep a number that was published, too, as it was measured here, in the published unit."""
        self.numbers[name] = measured

    def _hold(self, check: Check) -> None:
        self.checks.append(check)
        print(check, flush=True)

    def picture(self, columns: int = 1, size: tuple[float, float] = (9.0, 3.6), title: str = "") -> list[Any]:
        """A row of axes to draw into, under a sentence that says what is to be seen."""
        self.figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
        if title:
            self.figure.suptitle(title)
        return list(axes[0])

    def finish(self, folder: Path) -> None:
        """Write the files.

        Raises:
            SystemExit: if a direction doesn't hold; the message names it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = {**self.environment(), **record(self.checks, self.numbers), "tables": self.results}
        (folder / f"{self.name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / f"{self.name}.md").write_text("\n".join(self.tables), encoding="utf-8")
        if self.figure is not None:
            self.figure.savefig(folder / f"{self.name}.png", dpi=110)
            plt.close(self.figure)
        seconds = _processor_seconds() - self._started[1]
        print(f"\n{folder / self.name}.json, .md, .png; {seconds:.0f} s of processor time")
        failed = [check.claim for check in self.checks if check.expected and not check.holds]
        if failed:
            raise SystemExit(f"{self.name}: not beyond its interval: {'; '.join(failed)}")

    def environment(self) -> dict[str, Any]:
        """Command, seeds, versions, time."""
        wall, processor = self._started
        return {
            "command": " ".join(
                ["python -m", f"examples.claims.{self.name}", *(["--quick"] if self.quick else []), *self.chosen]
            ),
            "seeds": self.seeds,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "llada": llada.__version__,
            },
            "threads": torch.get_num_threads(),
            "date": time.strftime("%Y-%m-%d", time.gmtime(wall)),
            "wall_seconds": round(time.time() - wall),
            "processor_seconds": round(_processor_seconds() - processor),
        }


def _processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def bars(
    axes: Any, groups: Sequence[str], series: dict[str, Sequence[Interval]], colours: Sequence[str] = COLOURS
) -> None:
    """Groups of bars in percent, one colour per series, with their intervals.

    Args:
        axes: to draw into.
        groups: labels on the x axis.
        series: legend label -> one interval per group.
        colours: of the series.
    """
    width = 0.8 / len(series)
    for index, (label, intervals) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, [100 * x.mean for x in intervals], width, label=label, color=colours[index])
        axes.errorbar(places, [100 * x.mean for x in intervals], _arms(intervals), fmt="none", ecolor="0.2", capsize=2)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set(ylabel="percent", ylim=(0, 105))


def lines(axes: Any, x: Sequence[float], series: dict[str, Sequence[Interval]]) -> None:
    """Lines in percent with their intervals; arguments as in `bars`, with numbers on the x axis."""
    for index, (label, intervals) in enumerate(series.items()):
        y = [100 * point.mean for point in intervals]
        axes.errorbar(x, y, _arms(intervals), marker="o", markersize=4, capsize=2, label=label, color=COLOURS[index])
    axes.set(ylabel="percent", ylim=(0, 105))
    axes.grid(alpha=0.3)


def _arms(intervals: Sequence[Interval]) -> list[list[float]]:
    """Lengths of the error bars, in percent."""
    return [[100 * (x.mean - x.low) for x in intervals], [100 * (x.high - x.mean) for x in intervals]]


def command_line(
    text: str | None,
    seeds: int = 3,
    *,
    tokens: bool = False,
    choices: dict[str, list[str]] | None = None,
    jobs: bool = False,
) -> argparse.Namespace:
    """The options of every claim, and those that some have.

    Args:
        text: the module's docstring.
        seeds: number of seeds by default; the short form takes 2 at most.
        tokens: whether numbers of unique tokens can be chosen.
        choices: further options, and the words that each takes.
        jobs: whether runs can be measured several at a time.

    Returns:
        ``quick`` bool, ``seeds`` list of ints, ``folder`` Path; perhaps ``tokens`` list of ints or None, a word or None
        for each of ``choices``, and ``jobs`` int. ``chosen`` has ``tokens`` and ``choices`` as words of the command.
    """
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short form, a few minutes on one core")
    parser.add_argument("--seeds", type=int, help=f"runs of each model; {seeds} by default, or 2 with --quick")
    parser.add_argument("--folder", type=Path, default=Path("runs/claims"), help="where the results go")
    if tokens:
        parser.add_argument("--tokens", type=int, action="append", help="unique tokens; may be given several times")
    if jobs:
        parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a core each; 1 by default")
    for name, words in (choices or {}).items():
        parser.add_argument(f"--{name}", choices=words, help=f"{words[0]} by default")
    options = parser.parse_args(sys.argv[1:])
    chosen = [("tokens", str(number)) for number in getattr(options, "tokens", None) or []]
    chosen += [(name, getattr(options, name)) for name in choices or {}]
    options.chosen = [f"--{name} {shlex.quote(word)}" for name, word in chosen if word is not None]
    options.seeds = list(range(options.seeds or (min(2, seeds) if options.quick else seeds)))
    torch.set_num_threads(1)  # the fastest for models of this size, and the same sums everywhere
    return options
