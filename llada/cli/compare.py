"""``llada compare RUN RUN``: two runs side by side: what of their configurations differs, and how they went.

    llada compare runs/linear runs/cosine
    llada compare runs/linear runs/cosine --metric val/nll --plot curves.svg

A run is a folder in which a CSVLogger has written ``metrics.csv``, or one above it. Beside it lies the configuration
that ``llada fit`` has written there. Of several the newest counts that has one: ``llada validate`` logs there as well.
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

_ERROR = "_se"
"""Behind the name of a metric: its standard error."""
_CAUTIONS = {
    ("data.source", "data.val_", "data.test_"): "metrics of another held-out text can't be compared",
    (
        "data.tokenizer",
    ): "a token stands for another piece of text; val/bits_per_byte can be compared, nats per token can't",
    ("data.max_length", "data.separate_documents"): "a token sees another context",
    ("model.objective",): "train/loss is of another objective; the bound, val/nll, is of the same kind",
}
"""Beginnings of places in a configuration -> what follows where they differ."""


class Run(NamedTuple):
    """What a run has left.

    Attributes:
        name: its folder, as it was given.
        curves: metric -> (step, value) in the order of the file.
        config: its configuration, flat; empty if none lies there.
        log: the folder that was read.
        logs: how many there are.
    """

    name: str
    curves: dict[str, list[tuple[int, float]]]
    config: dict[str, Any]
    log: Path = Path()
    logs: int = 1


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
    for run in runs:
        if run.logs > 1:
            print(f"{run.name}: {run.log} is read, of {run.logs} logs")
    _print_differences(console, *runs)
    _print_metrics(console, runs, metric or [name for name in shared if not _is_error(name, shared)])
    for line in cautions(*runs):
        print(line)
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
    files = sorted(
        Path(folder).rglob("metrics.csv"), key=lambda path: (_config_of(path).is_file(), path.stat().st_mtime)
    )
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
    beside = _config_of(files[-1])
    try:
        config = yaml.safe_load(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{beside} is no YAML: {' '.join(str(error).split())}") from error
    return Run(folder, curves, dict(flat(config)) if config else {}, files[-1].parent, len(files))


def _config_of(metrics: Path) -> Path:
    return metrics.parent / "config.yaml"


def _is_error(name: str, names: Sequence[str]) -> bool:
    """Whether it is the standard error of another metric, which stands beside that one."""
    return name.removesuffix(_ERROR) != name and name.removesuffix(_ERROR) in names


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


def cautions(first: Run, second: Run) -> list[str]:
    """What of two runs can't be compared, as far as their configurations say.

    Args:
        first: a run.
        second: the other one.
    """
    places = [place for place, _, _ in differences(first, second)] if first.config and second.config else []
    found = []
    for beginnings, text in _CAUTIONS.items():
        which = [place for place in places if place.startswith(beginnings)]
        if which:
            found.append(f"{which[0]} differs: {text}")
    return found


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
        errors = [
            _plus_minus(run.curves.get(f"{name}{_ERROR}"), step) for run, (step, _) in zip(runs, last, strict=True)
        ]
        cells = [
            f"{value:.4f}{error} at {step} ({least:.4f})"
            for (step, value), error, least in zip(last, errors, low, strict=True)
        ]
        table.add_row(name, *cells, f"{last[1][1] - last[0][1]:+.4f}")
    console.print(table, markup=False)


def _plus_minus(errors: list[tuple[int, float]] | None, step: int) -> str:
    return f" +- {errors[-1][1]:.4f}" if errors and errors[-1][0] == step else ""


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
