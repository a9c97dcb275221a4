"""What the benchmarks share after measuring: options, goals, a table, a plot, and a page under docs/benchmarks."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import hardware, report, table

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A number that was to be reached.

    Args:
        what: the goal in words, without the number.
        value: as measured.
        limit: to reach.
        most: whether the limit is a most instead of a least.
    """

    what: str
    value: float
    limit: float
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether the measured value is within the limit."""
        return self.value <= self.limit if self.most else self.value >= self.limit

    def line(self) -> list[str]:
        """Cells of a table: goal, measured, reached."""
        bound = f"at {'most' if self.most else 'least'} {self.limit:g}"
        return [f"{self.what}: {bound}", f"{self.value:.3g}", "yes" if self.met else "**no**"]


@dataclass(frozen=True)
class Plot:
    """One picture of the rows.

    Args:
        x: column along the axis, or of the bars' names.
        y: column of the heights.
        group: column whose values become one line each; None for bars.
        title: what is shown.
        ylabel: quantity and unit; None for the name of the column.
        goal: a height to mark, or None.
    """

    x: str
    y: str
    group: str | None = None
    title: str = ""
    ylabel: str | None = None
    goal: float | None = None

    def save(self, rows: Sequence[Row], path: Path) -> None:
        """Draw into an SVG file."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        with pyplot.rc_context({"svg.hashsalt": "llada", "svg.fonttype": "none", "font.size": 9}):
            height = 3.2 if self.group is not None else 1.0 + 0.28 * len(self._numbers(rows))
            figure, axes = pyplot.subplots(figsize=(6.4, height))
            (self._bars if self.group is None else self._lines)(axes, rows)
            axes.set_title(self.title)
            axes.spines[["top", "right"]].set_visible(False)
            figure.tight_layout()
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)

    def shows(self, rows: Sequence[Row]) -> bool:
        """Whether a picture says more than the table: two numbers need none."""
        return len(self._numbers(rows)) > 2

    def _numbers(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if isinstance(row[self.y], int | float)]

    def _bars(self, axes: Any, rows: Sequence[Row]) -> None:
        numbers = self._numbers(rows)
        bars = axes.barh([*range(len(numbers))], [row[self.y] for row in numbers], color="#4051b5")
        axes.bar_label(bars, [shown(row[self.y]) for row in numbers], padding=3)
        axes.set_yticks([*range(len(numbers))], [shown(row[self.x]) for row in numbers])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=self.ylabel or self.y, ylabel=self.x)
        if self.goal is not None:
            axes.axvline(self.goal, color="grey", linestyle="--", linewidth=1)

    def _lines(self, axes: Any, rows: Sequence[Row]) -> None:
        for name in dict.fromkeys(row[self.group] for row in rows):
            line = [row for row in self._numbers(rows) if row[self.group] == name]
            axes.plot([row[self.x] for row in line], [row[self.y] for row in line], marker="o", label=str(name))
        axes.set(xlabel=self.x, ylabel=self.ylabel or self.y, ylim=(0, None))
        if self.goal is not None:
            axes.axhline(self.goal, color="grey", linestyle="--", linewidth=1)
        axes.legend(frameon=False)


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Args:
        name: of the benchmark's module.
        text: the module's docstring: a heading, and what is compared with what.
        rows: of the table, all with the same columns.
        plot: of the rows.
        goals: and whether they were reached.
        note: the circumstances, such as other work beside.
        extra: further tables by heading, before the rows.
    """

    name: str
    text: str
    rows: list[Row]
    plot: Plot
    goals: list[Goal] = field(default_factory=list)
    note: str = ""
    extra: dict[str, list[Row]] = field(default_factory=dict)

    def tables(self) -> str:
        """All tables, and the goals."""
        parts = [f"## {heading}\n\n{lines(rows)}" for heading, rows in self.extra.items() if rows]
        if self.rows:
            parts.append(lines(self.rows))
        if self.goals:
            parts.append(table(["goal", "measured", "reached"], [goal.line() for goal in self.goals]))
        return "\n\n".join(parts)

    def page(self) -> str:
        """The documentation page."""
        heading, _, text = self.text.partition("\n")
        where = " ".join(filter(None, [circumstances(), self.note]))
        picture = f"![{self.plot.title}]({self.name}.svg)\n" if self.plot.shows(self.rows) else ""
        return f"# {heading.rstrip('.')}\n\n{text.strip()}\n\n{where}\n\n```bash\n{command(self.name)}\n```\n\n" + (
            f"{self.tables()}\n\n{picture}"
        )


def lines(rows: Sequence[Row]) -> str:
    """Rows of one kind as a table."""
    return table(list(rows[0]), [[shown(value) for value in row.values()] for row in rows])


def shown(value: Any) -> str:
    """A cell: three significant digits, thousands with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def circumstances() -> str:
    """Hardware, versions, date, and how busy the machine was: with more work than cores, wall times mean little."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return f"{hardware()}; load {load:.1f} on {os.cpu_count()} cores."


def command(name: str) -> str:
    """The command line that this process was started with, its output folder left out."""
    words = " ".join(shlex.quote(word) for word in sys.argv[1:])
    return re.sub(r" +--(out|note) +('[^']*'|\S+)", "", f"python -m benchmarks.{name} {words}").strip()


def options(text: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes.

    Args:
        text: the module's docstring.
        rounds: default of ``--rounds``.
    """
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds after one to warm up; medians")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more make sense on an idle machine only")
    parser.add_argument("--out", type=Path, help="folder for NAME.md and NAME.svg, such as docs/benchmarks")
    parser.add_argument("--note", default="", help="a sentence about the circumstances, for the page")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the number of threads set."""
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return given


def finish(result: Result, out: Path | None) -> Result:
    """Print the tables and a line of JSON, and write page and plot if there is a folder for them."""
    print(f"{circumstances()} {result.note}\n\n{result.tables()}\n")
    report(result.name, result.rows)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{result.name}.md").write_text(result.page(), encoding="utf-8")
        if result.plot.shows(result.rows):
            result.plot.save(result.rows, out / f"{result.name}.svg")
        print(f"wrote {out / result.name}.md")
    return result


def must_equal(what: str, difference: float, tolerance: float) -> float:
    """The difference.

    Raises:
        SystemExit: if it is above the tolerance; what computes something else isn't timed.
    """
    if not difference <= tolerance:
        raise SystemExit(f"{what} differs by {difference:.3g}, more than {tolerance:g}; nothing was timed")
    return difference
