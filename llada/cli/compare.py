"""``llada compare RUN RUN``: two runs side by side: what of their configurations differs, and how they went.

    llada compare runs/linear runs/cosine
    llada compare runs/linear runs/cosine --metric val/nll --plot curves.svg

A run is a folder in which a CSVLogger has written ``metrics.csv``, or one above it; then the newest file counts. Beside
it lies the configuration that ``llada fit`` has written there.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from llada.cli.boundary import Misunderstood
from llada.cli.kinds import InputFolder, OutputFile
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain


class Run(NamedTuple):
    """What a run has left.

    Attributes:
        name: its folder, as it was given.
        curves: metric -> (step, value) in the order of the file.
        config: its configuration, flat; empty if none lies there.
    """

    name: str
    curves: dict[str, list[tuple[int, float]]]
    config: dict[str, Any]


def compare(
    first: InputFolder, second: InputFolder, metric: list[str] | None = None, plot: OutputFile | None = None
) -> None:
    """Two runs side by side: what of their configurations differs, and how they went.

    Args:
        first: folder of a run, such as runs/linear.
        second: folder of the other run.
        metric: what to compare, such as val/nll; default: all that both have logged.
        plot: picture to be written, such as curves.svg, with the curves of the metrics; needs the extra llada[demo].
    """
    runs = read_run(first), read_run(second)
    shared = [name for name in runs[0].curves if name in runs[1].curves]
    for name in metric or []:
        if name not in shared:
            raise Misunderstood(no_such("metric", name, shared, "that both runs have logged"))
    if not shared:
        raise ValueError(f"{first} and {second} have logged no metric of the same name")
    console = Console(highlight=False)
    _print_differences(console, *runs)
    _print_metrics(console, runs, metric or shared)
    if plot is not None:
        draw(runs, metric or [name for name in shared if name in ("val/nll", "train/loss")] or shared[:1], plot)
        print(f"curves drawn to {plot}")


def read_run(folder: str) -> Run:
    """What a run has logged.

    Args:
        folder: that of the logs, or one above it.

    Raises:
        FileNotFoundError: if nothing was logged there.
        ValueError: if what is there is no table of numbers.
    """
    files = sorted(Path(folder).rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{folder} has no metrics.csv; runs are compared by what a CSVLogger has written")
    curves: dict[str, list[tuple[int, float]]] = {}
    with files[-1].open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                step = int(row["step"])
                found = {name: float(value) for name, value in row.items() if value and name not in ("step", "epoch")}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{files[-1]}, line {number} is no row of a CSVLogger: {error}") from error
            for name, value in found.items():
                curves.setdefault(name, []).append((step, value))
    beside = files[-1].parent / "config.yaml"
    try:
        config = yaml.safe_load(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{beside} is no YAML: {' '.join(str(error).split())}") from error
    return Run(folder, curves, dict(flat(config)) if config else {})


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """The ends of a configuration by their places, without the words class_path and init_args."""
    if isinstance(value, dict) and value:
        inner = {"class_path", "init_args"}
        found = []
        for name, item in value.items():
            found += flat(item, path if name in inner else f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [end for index, item in enumerate(value) for end in flat(item, f"{path}.{index}")]
    return [(path, value)]


def differences(first: Run, second: Run) -> list[tuple[str, Any, Any]]:
    """(place, value, value) of all that differs; None where a configuration hasn't the place."""
    places = dict.fromkeys([*first.config, *second.config])
    pairs = [(place, first.config.get(place), second.config.get(place)) for place in places]
    return [(place, one, other) for place, one, other in pairs if one != other]


def _print_differences(console: Console, first: Run, second: Run) -> None:
    found = differences(first, second)
    if not first.config or not second.config:
        console.print("no config.yaml lies beside the logs of both, so nothing is said of their configurations\n")
        return
    if not found:
        console.print("the configurations are the same\n")
        return
    table = _table("configuration", first, second)
    for place, one, other in found:
        table.add_row(place, str(one), str(other))
    console.print(table, markup=False)
    console.print()


def _print_metrics(console: Console, runs: tuple[Run, Run], names: Sequence[str]) -> None:
    table = _table("metric: last value (lowest)", *runs)
    table.add_column("difference", justify="right")
    for name in names:
        last = [run.curves[name][-1] for run in runs]
        low = [min((value for _, value in run.curves[name] if math.isfinite(value)), default=math.nan) for run in runs]
        cells = [f"{value:.4f} at {step} ({least:.4f})" for (step, value), least in zip(last, low, strict=True)]
        table.add_row(name, *cells, f"{last[1][1] - last[0][1]:+.4f}")
    console.print(table, markup=False)


def _table(title: str, first: Run, second: Run) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (title, first.name, second.name):
        table.add_column(name, overflow="fold")
    return table


def draw(runs: Sequence[Run], names: Sequence[str], path: str) -> None:
    """Draw curves, one panel per metric, one line per run.

    Args:
        runs: with the metrics.
        names: of the metrics.
        path: picture to be written; its ending says the format.

    Raises:
        ImportError: without matplotlib.
        ValueError: if the ending is that of no format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install llada[demo]") from error
    figure = Figure(figsize=(7, 3 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        for run in runs:
            axes.plot(
                *zip(*run.curves[name], strict=True), label=run.name, marker="." if len(run.curves[name]) < 30 else ""
            )
        axes.set(xlabel="step", ylabel=name)
        axes.legend()
    figure.savefig(path)


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(compare, command, arguments)
