"""``llada compare RUN RUN``: two runs side by side: what of their configurations differs, and how they went.

    llada compare runs/linear runs/cosine
    llada compare runs/linear runs/cosine --metric val/nll --plot curves.svg

A run is a folder in which a CSVLogger has written ``metrics.csv``, or one above it; `run_log` reads it.
"""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from llada.cli.boundary import Misunderstood
from llada.cli.kinds import InputFolder, OutputFile
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain
from llada.cli.run_log import Run, read_run

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
            print(f"{run.name}: {' and then '.join(map(str, run.read))} read, of {run.logs} logs")
    _print_differences(console, *runs)
    _print_metrics(console, runs, metric or [name for name in shared if not _is_error(name, shared)])
    for line in cautions(*runs):
        print(line)
    if plot is not None:
        draw(runs, metric or [name for name in shared if name in ("val/nll", "train/loss")] or shared[:1], plot)
        print(f"curves drawn to {plot}")


def _is_error(name: str, names: Sequence[str]) -> bool:
    """Whether it is the standard error of another metric, which stands beside that one."""
    return name.removesuffix(_ERROR) != name and name.removesuffix(_ERROR) in names


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
