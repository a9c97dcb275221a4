"""What a run has left in its folder: the metrics that a CSVLogger wrote, and the configuration beside them.

Each call of ``llada fit`` writes a log of its own beside those before it. Where a run was stopped and gone on with,
they are joined: up to the first step of the later one counts what the earlier one has, then the later one. A log
without a configuration is of a validation or a test, and no part of the training. Of several runs below a folder the
newest counts.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Curves = dict[str, list[tuple[int, float]]]
"""Metric -> (step, value) by rising steps."""


class Run(NamedTuple):
    """What a run has left.

    Attributes:
        name: its folder, as it was given.
        curves: of all its metrics.
        config: its configuration, flat; empty if none lies there.
        read: the folders of logs that the curves are from, in the order of time.
        logs: how many there are.
    """

    name: str
    curves: Curves
    config: dict[str, Any]
    read: tuple[Path, ...] = ()
    logs: int = 1


def read_run(folder: str) -> Run:
    """What a run has logged.

    Args:
        folder: that of the logs, or one above it.

    Raises:
        FileNotFoundError: if nothing was logged there.
        ValueError: if what is there is no table of numbers.
    """
    logs = [path.parent for path in sorted(Path(folder).rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)]
    if not logs:
        raise FileNotFoundError(f"{folder} has no metrics.csv; runs are compared by what a CSVLogger has written")
    read: list[Path] = []
    curves: Curves = {}
    config: dict[str, Any] = {}
    trainings = [log for log in logs if _config_of(log).is_file()] or logs[-1:]
    for log in trainings:
        if log.parent != trainings[-1].parent:  # of another run
            continue
        config, found = _configuration(log), _curves(log)
        if not config.get("ckpt_path"):  # a training from its first step
            read, curves = [], {}
        elif not found:  # stopped before it logged anything
            continue
        curves = _joined(curves, found)
        read.append(log)
    return Run(folder, curves, dict(flat(config)) if config else {}, tuple(read), len(logs))


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


def _joined(earlier: Curves, later: Curves) -> Curves:
    """Both, without the steps that were lost when the run went on from its checkpoint."""
    begin = min((curve[0][0] for curve in later.values()), default=0)
    kept = {name: [point for point in curve if point[0] < begin] for name, curve in earlier.items()}
    names = dict.fromkeys([*kept, *later])
    joined = {name: kept.get(name, []) + later.get(name, []) for name in names}
    return {name: curve for name, curve in joined.items() if curve}


def _config_of(log: Path) -> Path:
    return log / "config.yaml"


def _configuration(log: Path) -> dict[str, Any]:
    beside = _config_of(log)
    try:
        found = yaml.safe_load(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{beside} is no YAML: {' '.join(str(error).split())}") from error
    return found if isinstance(found, dict) else {}


def _curves(log: Path) -> Curves:
    curves: Curves = {}
    path = log / "metrics.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                step = int(row["step"])
                found = {name: float(value) for name, value in row.items() if value and name not in ("step", "epoch")}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number} is no row of a CSVLogger: {error}") from error
            for name, value in found.items():
                curves.setdefault(name, []).append((step, value))
    return curves
