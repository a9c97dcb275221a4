"""Which order solves a puzzle, and where the surest token first is wrong.

    python examples/orders.py sudoku      # orders of one masked model, and two next-token twins; three seeds
    python examples/orders.py sudoku9     # the same of 9 x 9; hours (--models masks: without the twins)
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
from typing import Any, ClassVar

import torch
from additions import MASK as NO_DIGIT
from additions import VOCABULARY, Additions
from claims import kept
from claims.statistics import Check, difference_over_seeds, mean_over_seeds, record
from claims.twins import Rows, Training, fit
from sudoku import SIDE, CellEmbedding, grids, large_grids, most_certain_first, puzzles, solved, varied
from torch import Tensor
from typing_extensions import override

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.autoregressive import AutoregressiveLM
from llada.objectives import NELBO, ExactCounts
from llada.samplers import LeftToRight, Margin, Order, PerStep, RandomOrder, State, TopProb, UnmaskingSampler

OUT = Path("runs/orders")
CHAINS = (0, 2, 4)
DIGITS = 6
Run = Callable[[str, int, int, int], dict[str, Any]]
"""Gets the model's name, a seed, steps of training and how many puzzles are asked; returns way -> 1 or 0 per puzzle."""


@dataclass(frozen=True)
class RightToLeft(Order):
    """From the last position to the first."""

    reads_drawn: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        """The later, the sooner."""
        return state.positions.double()


ORDERS: dict[str, Order] = {
    "random order": RandomOrder(),
    "left to right": LeftToRight(),
    "right to left": RightToLeft(),
    "top probability": TopProb(),
    "margin": Margin(),
}


def make(
    vocab_size: int, mask: int, places: int, seed: int, twin: bool, width: int = 64, layers: int = 3
) -> DiffusionLM:
    """A fresh model; twins of one seed and length start from the same weights."""
    torch.manual_seed(seed)
    network = BidirectionalTransformer(
        vocab_size, width=width, num_layers=layers, num_heads=width // 16, causal=twin, shift=twin
    )
    network.embedding = CellEmbedding(vocab_size, width, places)
    process = MaskingProcess(mask)
    bound = NELBO(ExactCounts())
    model = AutoregressiveLM(network, process, seed=seed) if twin else DiffusionLM(network, process, bound, seed=seed)
    model.undescribed = "weights"  # whoever loads a checkpoint puts the places' vectors in by hand, as above
    return model


def written(model: DiffusionLM, prompts: Tensor, open_places: Tensor, order: Order, seed: int) -> Tensor:
    """Canvases with the open places filled, one per call; (N, L)."""
    sampler = UnmaskingSampler(PerStep(1), order)
    return model.generate(prompts, given=~open_places, sampler=sampler, seed=seed).tokens


@dataclass(frozen=True)
class Sudokus:
    """Puzzles of one size, and the models that solve them.

    Tokens are the digits, the blank that diffusion fills (``side``), and for the twins a blank that is read and a name
    for each cell.

    Args:
        side: of a grid.
        blanks: of the puzzles that twins are trained on and asked.
        further: blanks of other puzzles that diffusion is asked, which is trained on any number.
        width: of the network.
        layers: of the network.
        rows: per step.
        rate: peak of the learning rate.
    """

    side: int = 4
    blanks: int = 10
    further: tuple[int, ...] = ()
    width: int = 64
    layers: int = 3
    rows: int = 64
    rate: float = 2e-3

    @property
    def cells(self) -> int:
        """Of a grid."""
        return self.side**2

    def training(self, number: int, draws: torch.Generator) -> Tensor:
        """Grids to learn from, (number, cells)."""
        if self.side == SIDE:
            return grids()[:200][torch.randint(200, (number,), generator=draws)]
        return varied(large_grids(300, seed=0, side=self.side), number, draws)

    def asked(self, number: int, seed: int, blanks: int) -> Tensor:
        """Puzzles of other grids, (number, cells)."""
        others = grids()[200:] if self.side == SIDE else large_grids(200, seed=1, side=self.side)
        return puzzles(others, number, 1000 + seed, (blanks, blanks))

    def as_pairs(self, puzzle: Tensor, grid: Tensor) -> Tensor:
        """The puzzle, and its blanks as pairs of cell and digit in a solver's order; (N, cells + 2 * blanks)."""
        cells = most_certain_first(puzzle, grid, self.blanks)
        pairs = torch.stack([cells + self.side + 2, grid.gather(1, cells)], -1).flatten(1)
        return torch.cat([self.read(puzzle), pairs], 1)

    def of_pairs(self, puzzle: Tensor, rows: Tensor) -> Tensor:
        """The grids that such rows write; cells that are no blanks stay blanks, and so are wrong."""
        cell, digit = rows[:, self.cells :].unflatten(1, (-1, 2)).unbind(-1)
        known = (cell >= self.side + 2) & (digit < self.side)
        beside = torch.where(known, cell - self.side - 2, self.cells)  # else to a column that is cut off
        filled = torch.nn.functional.pad(puzzle, (0, 1)).scatter(1, beside, digit)[:, : self.cells]
        return torch.where(puzzle == self.side, filled, puzzle)

    def read(self, puzzle: Tensor) -> Tensor:
        """A puzzle as the twins read it."""
        return puzzle.masked_fill(puzzle == self.side, self.side + 1)

    def model(self, places: int, seed: int, twin: bool) -> DiffusionLM:
        """A fresh one for canvases of so many places."""
        return make(self.side + 2 + self.cells, self.side, places, seed, twin, self.width, self.layers)

    def run(self, noise: str, seed: int, steps: int, asked: int) -> dict[str, Any]:
        """Puzzles solved, by way of writing: 1 or 0 per puzzle."""
        training = Training(steps, self.rows, self.rate)
        random = torch.Generator().manual_seed(seed)
        grid = self.training(steps * self.rows, random)
        if noise == "masks":
            model = fit(self.model(self.cells, seed, twin=False), Rows(grid), training, seed)
            found = {}
            for blanks in (self.blanks, *self.further):
                question = self.asked(asked, seed, blanks)
                for name in ("random order", "left to right", "top probability", "margin"):
                    answer = written(model, question, question == self.side, ORDERS[name], seed)
                    found[name if blanks == self.blanks else f"{name}, {blanks} blanks"] = self.right(question, answer)
            return found
        question = self.asked(asked, seed, self.blanks)
        blank = torch.rand(grid.shape, generator=random).argsort(1).argsort(1) < self.blanks
        puzzle = grid.masked_fill(blank, self.side)
        in_rows = noise == "twin, row by row"
        rows = torch.cat([self.read(puzzle), grid], 1) if in_rows else self.as_pairs(puzzle, grid)
        is_answer = torch.arange(rows.shape[1]) >= self.cells
        model = self.model(rows.shape[1], seed, twin=True)
        fit(model, Rows(rows, is_answer.expand_as(rows)), training, seed)
        canvas = torch.full((asked, rows.shape[1]), self.side)
        canvas[:, : self.cells] = self.read(question)
        answer = written(model, canvas, is_answer.expand_as(canvas), LeftToRight(), seed)
        return {noise: self.right(question, answer[:, self.cells :] if in_rows else self.of_pairs(question, answer))}

    def right(self, puzzle: Tensor, cells: Tensor) -> list[float]:
        """1 for grids that keep the puzzle and the rules, else 0."""
        kept = ((cells == puzzle) | (puzzle == self.side)).all(1)
        return (solved(cells) & kept).double().tolist()


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
SUDOKU = ["masks", "twin, row by row", "twin, solver's order"]
LARGE = Sudokus(9, 40, (30, 50), width=96, layers=4, rows=32)
STUDIES = {
    "sudoku": Plan(Sudokus().run, SUDOKU, 600, [("margin", "top probability"), *OF_GRIDS], 600),
    "sudoku9": Plan(LARGE.run, SUDOKU, 4000, [*OF_GRIDS, ("margin, 50 blanks", "top probability, 50 blanks")], 1500),
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
