"""Which order solves a puzzle, and where the surest token first is wrong.

    python examples/orders.py sudoku      # orders of one masked model, and two next-token twins; three seeds
    python examples/orders.py sudoku9     # the same of 9 x 9; 3 hours (--models masks: without the twins)
    python examples/orders.py addition    # long carries; three seeds

The others take a quarter of an hour of processor time. The models have the same Transformer with a learnt vector per
place, and the same steps, rows per step and optimiser. All decoding is greedy, a token per call; every run is kept.

Sudoku: of 4 x 4 there are 288 grids, of which 200 are for training, and puzzles of the other 88 are asked, with ten
blanks. Of 9 x 9 no grid of training occurs twice: 300 grids are varied for it, and puzzles of 200 others are asked. The
masked model is trained on grids with random blanks, and writes the blanks in several orders. One twin reads the puzzle
and writes the grid row by row. The other is taught the order as well: it writes pairs of cell and digit, as a solver
does that fills the cell which its neighbours narrow down most.

Addition: the sums of two numbers of six random digits, with a carry that runs through a chain of columns. One twin
writes the sum as it is read, the other from its last digit on, which is the order in which carries arise.

Sources: Kim et al., "Train for the Worst, Plan for the Best" (arXiv 2502.06768) for sudoku and margins; arXiv
2605.29123 for confidence and carries.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from additions import MASK as NO_DIGIT
from additions import VOCABULARY, Additions
from claims import kept
from claims.statistics import Check, difference_over_seeds, mean_over_seeds, record
from claims.twins import Rows, Training, fit
from order_models import ORDERS, make, written
from sudoku_orders import LARGE, MODELS, SMALL

from llada.samplers import LeftToRight

OUT = Path("runs/orders")
CHAINS = (0, 2, 4)
DIGITS = 6
Run = Callable[[str, int, int, int], dict[str, Any]]
"""Gets the model's name, a seed, steps of training and how many puzzles are asked; returns way -> 1 or 0 per puzzle."""


def addition(noise: str, seed: int, steps: int, asked: int) -> dict[str, Any]:
    """Right sums, by way of writing and length of the chain: 1 or 0 per sum."""
    task = Additions(DIGITS)
    backwards = torch.arange(task.length)
    if noise == "twin, last digit first":
        backwards = torch.where(task.is_sum, backwards.flip(0) + task.length - DIGITS - 1, backwards)
    model = make(VOCABULARY, NO_DIGIT, task.length, seed, twin=noise != "masks")
    rows = task.draw(steps * 64, seed)[:, backwards]
    fit(model, Rows(rows, task.is_sum.expand_as(rows)), Training(steps, 64, 2e-3), seed)
    ways = ORDERS if noise == "masks" else {noise: LeftToRight()}
    found = {}
    for chain in CHAINS:
        truth = task.draw_chains(asked, chain, 1000 + seed)[:, backwards]
        canvas = truth.masked_fill(task.is_sum, NO_DIGIT)
        for name, order in ways.items():
            answer = written(model, canvas, task.is_sum.expand_as(canvas), order, seed)
            found[f"{name}, {chain}"] = (answer == truth).all(1).double().tolist()
    return found


@dataclass(frozen=True)
class Plan:
    """One study.

    Args:
        run: trains a model and asks it.
        models: that ``run`` knows.
        steps: of training.
        claims: pairs of ways of writing, of which the first is to be better.
        quick_steps: of the short form, which is the first model alone, asked 100 puzzles.
    """

    run: Run
    models: list[str]
    steps: int
    claims: list[tuple[str, str]]
    quick_steps: int


OF_GRIDS = [
    ("margin", "random order"),
    ("margin", "left to right"),
    ("margin", "twin, row by row"),
    ("margin", "twin, solver's order"),
    ("twin, solver's order", "twin, row by row"),
]
STUDIES = {
    "sudoku": Plan(SMALL.run, MODELS, 600, [("margin", "top probability"), *OF_GRIDS], 600),
    "sudoku9": Plan(LARGE.run, MODELS, 4000, [*OF_GRIDS, ("margin, 50 blanks", "top probability, 50 blanks")], 1500),
    "addition": Plan(
        addition,
        ["masks", "twin, as it is read", "twin, last digit first"],
        1200,
        [
            ("right to left, 4", "top probability, 4"),
            ("random order, 4", "top probability, 4"),
            ("top probability, 0", "top probability, 4"),
            ("right to left, 4", "twin, as it is read, 4"),
        ],
        1200,
    ),
}


def study(
    name: str,
    folder: Path,
    seeds: int,
    steps: int | None = None,
    asked: int = 500,
    only: list[str] | None = None,
    jobs: int = 1,
) -> str:
    """Train, ask, and tell; as Markdown, and the claims in NAME.json of the folder, as other claims have them.

    Args:
        name: of the study.
        folder: where runs are kept.
        seeds: of each model.
        steps: of training; None for those of the study.
        asked: puzzles per seed.
        only: models that are run; None for all of the study.
        jobs: runs at a time.
    """
    plan = STUDIES[name]
    found: dict[str, list[Any]] = {}
    steps = steps or plan.steps
    file = folder / f"{name}-{steps}-steps-{asked}-asked.jsonl"
    run = partial(plan.run, steps=steps, asked=asked)
    for _, _, result in kept.study(file, only or plan.models, seeds, run, jobs):
        for way, right in result.values.items():
            found.setdefault(way, []).append(right)
    lines = ["| way of writing | right, % |", "|---|---|"]
    lines += [f"| {way} | {mean_over_seeds(right).percent()} |" for way, right in found.items()]
    checks: list[Check] = []
    for better, than in plan.claims:
        if better in found and than in found:
            checks.append(Check.above(f"{better} beats {than}", difference_over_seeds(found[better], found[than])))
            lines.append(f"\n{checks[-1]}")
    shares = {f"{way}, %": mean_over_seeds(right).times(100) for way, right in found.items()}
    text = json.dumps(record(checks, shares), indent=2)
    (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    return "\n".join(lines)


def main() -> None:
    """Read the options, and study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=OUT, help="where runs are kept")
    parser.add_argument("--seeds", type=int, help="runs of each model; 3 by default, or 2 with --quick")
    parser.add_argument("--asked", type=int, help="puzzles, or sums, per seed; 500 by default, or 100 with --quick")
    parser.add_argument("--models", nargs="+", help='only these, such as masks, or "twin, row by row"')
    parser.add_argument("--quick", action="store_true", help="the masked model alone, in a few minutes")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a core each; 1 by default")
    options = parser.parse_args()
    plan = STUDIES[options.study]
    unknown = sorted({*(options.models or [])} - {*plan.models})
    if unknown:
        parser.error(f"--models {unknown[0]!r}: {options.study} has {', '.join(map(repr, plan.models))}")
    torch.set_num_threads(1)
    seeds, asked = options.seeds or (2 if options.quick else 3), options.asked or (100 if options.quick else 500)
    only = options.models or (plan.models[:1] if options.quick else None)
    steps = plan.quick_steps if options.quick else plan.steps
    print(study(options.study, options.out, seeds, steps, asked, only, options.jobs))


if __name__ == "__main__":
    main()
