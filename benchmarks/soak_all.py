"""Everything that is tried for long, one figure each: kills, damaged inputs, chat templates, compositions, real cases.

    python -m benchmarks.soak_all                                          # hours: all figures
    python -m benchmarks.soak_all --runs 1 --inputs 100 --compositions 20  # minutes
    python -m benchmarks.soak_all --parts inputs,templates

| part | figure |
|---|---|
| kills | runs that were killed and ended bit by bit as if they hadn't been, over ten settings (`benchmarks.soak`) |
| inputs | damaged inputs that gave a clear error, or a result (`benchmarks.soak_inputs`) |
| templates | comparisons of a chat template with transformers that are equal, token for token |
| compositions | compositions of a sampler whose rows don't depend on the batch in float64 |
| cases | real folders, data, evaluation tasks and habits of training that come out right |

Templates and cases are tests of the suite, each of which is one comparison.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

from benchmarks.soak import SETTINGS, soak
from benchmarks.soak_inputs import fuzz
from examples.batch_independence import outcomes

ROOT = Path(__file__).parents[1]
TEMPLATES = ("tests/data/chat/test_rows_of_templates.py", "tests/data/chat/test_jinja_template.py")
CASES = (
    "tests/checkpoints/test_real_folders.py",
    "tests/checkpoints/test_released_layouts.py",
    "tests/data/test_foreign.py",
    "tests/evaluation/test_bad_rows.py",
    "tests/training/test_trainer_options.py",
)


class Figure(NamedTuple):
    """How many of those that were tried came out right."""

    right: int
    tried: int
    what: str


def kills(options: argparse.Namespace) -> Figure:
    """Runs that were killed; files that they left count as a fault."""
    lines = soak(list(SETTINGS), options.runs, 3, options.seed)
    right = sum(line["identical"] for line in lines if not line["left"])
    number = sum(line["kills"] for line in lines)
    return Figure(right, sum(line["runs"] for line in lines), f"runs of {len(lines)} settings, killed {number} times")


def inputs(options: argparse.Namespace) -> Figure:
    """Damaged inputs."""
    found = fuzz(range(options.inputs), options.seed)
    return Figure(
        options.inputs - found["unclear"], options.inputs, f"inputs, of which {found['result']} gave a result"
    )


def compositions(options: argparse.Namespace) -> Figure:
    """Rows in a batch and alone."""
    right = 0
    for drawn, outcome in outcomes(options.seed * 100_000, options.compositions, torch.float64):
        right += not outcome.differ
        if outcome.differ:
            print(f"composition {drawn.number}: {'; '.join(outcome.differ)}", flush=True)
    return Figure(right, options.compositions, "compositions in float64")


def tests(*files: str) -> Figure:
    """Tests that pass, of those that weren't skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        suite = ElementTree.parse(report).getroot()[0] if report.exists() else None
    if suite is None:
        raise RuntimeError(f"pytest didn't run:\n{run.stdout}{run.stderr}")
    total, skipped, failed, errors = (int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors"))
    if failed or errors:
        print(run.stdout, flush=True)
    return Figure(total - skipped - failed - errors, total - skipped, f"comparisons, {skipped} skipped")


PARTS: dict[str, Callable[[argparse.Namespace], Figure]] = {
    "kills": kills,
    "inputs": inputs,
    "templates": lambda _: tests(*TEMPLATES),
    "compositions": compositions,
    "cases": lambda _: tests(*CASES),
}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status says whether everything came out right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], prog="python -m benchmarks.soak_all")
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas between them")
    parser.add_argument("--runs", type=int, default=10, help="of every setting that is killed, three times each")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--compositions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of kills, damage and compositions")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures = {}
    for name in options.parts.split(","):
        figures[name] = PARTS[name](options)
        print(f"{name}: {figures[name].right} of {figures[name].tried} {figures[name].what}", flush=True)
    return int(any(figure.right < figure.tried for figure in figures.values()))


if __name__ == "__main__":
    raise SystemExit(main())
