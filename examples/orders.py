"""Which order solves a puzzle, and where the surest token first is wrong.

    python examples/orders.py sudoku      # orders of one masked model, and two next-token twins; three seeds
    python examples/orders.py addition    # long carries; three seeds

Both take a quarter of an hour of processor time. The models have the same Transformer with a learnt vector per place,
and the same steps, rows per step and optimiser. All decoding is greedy, a token per call, and every run is kept.

Sudoku: 4 x 4 grids with ten blanks; 200 of the 288 grids are for training, and puzzles of the other 88 are asked. The
masked model is trained on grids with random blanks, and writes the blanks in several orders. One twin reads the puzzle
and writes the grid row by row. The other is taught the order as well: it writes pairs of cell and digit, as a solver
does that fills the cell which its neighbours narrow down most.

Addition: the sums of two numbers of six random digits, with a carry that runs through a chain of columns. One twin
writes the sum as it is read, the other from its last digit on, which is the order in which carries arise.

Sources: Kim et al., "Train for the Worst, Plan for the Best" (arXiv 2502.06768) for sudoku and margins; arXiv
2605.29123 for confidence and carries.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from additions import MASK as NO_DIGIT
from additions import VOCABULARY, Additions
from claims.statistics import difference_over_seeds, mean_over_seeds
from claims.twins import Rows, Training, fit
from kept_runs import Study
from sudoku import CELLS, MASK, SIDE, CellEmbedding, grids, most_certain_first, puzzles, solved
from torch import Tensor
from typing_extensions import override

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.autoregressive import AutoregressiveLM
from llada.objectives import NELBO, ExactCounts
from llada.samplers import LeftToRight, Margin, Order, PerStep, RandomOrder, State, TopProb, UnmaskingSampler

OUT = Path("runs/orders")
BLANKS = 10
BLANK, FIRST_CELL = SIDE + 1, SIDE + 2  # for the twins: a blank that is read, and the name of the first cell
CHAINS = (0, 2, 4)
DIGITS = 6


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


def make(vocab_size: int, mask: int, places: int, seed: int, twin: bool) -> DiffusionLM:
    """A fresh model; twins of one seed and length start from the same weights."""
    torch.manual_seed(seed)
    network = BidirectionalTransformer(vocab_size, width=64, num_layers=3, num_heads=4, causal=twin, shift=twin)
    network.embedding = CellEmbedding(vocab_size, 64, places)
    process = MaskingProcess(mask)
    bound = NELBO(ExactCounts())
    model = AutoregressiveLM(network, process, seed=seed) if twin else DiffusionLM(network, process, bound, seed=seed)
    model.undescribed = "weights"  # whoever loads a checkpoint puts the places' vectors in by hand, as above
    return model


def written(model: DiffusionLM, prompts: Tensor, open_places: Tensor, order: Order, seed: int) -> Tensor:
    """Canvases with the open places filled, one per call; (N, L)."""
    sampler = UnmaskingSampler(PerStep(1), order)
    return model.generate(prompts, given=~open_places, sampler=sampler, seed=seed).tokens


def as_pairs(puzzle: Tensor, grid: Tensor) -> Tensor:
    """The puzzle, and its blanks as pairs of cell and digit in a solver's order; (N, 16 + 2 * BLANKS)."""
    cells = most_certain_first(puzzle, grid, BLANKS)
    pairs = torch.stack([cells + FIRST_CELL, grid.gather(1, cells)], -1).flatten(1)
    return torch.cat([puzzle.masked_fill(puzzle == MASK, BLANK), pairs], 1)


def of_pairs(puzzle: Tensor, rows: Tensor) -> Tensor:
    """The grids that such rows write; cells that are no blanks stay blanks, and so are wrong."""
    cell, digit = rows[:, CELLS:].unflatten(1, (-1, 2)).unbind(-1)
    known = (cell >= FIRST_CELL) & (digit < SIDE)
    beside = torch.where(known, cell - FIRST_CELL, CELLS)  # what isn't a cell goes to a column that is cut off
    filled = torch.nn.functional.pad(puzzle, (0, 1)).scatter(1, beside, digit)[:, :CELLS]
    return torch.where(puzzle == MASK, filled, puzzle)


def sudoku(noise: str, seed: int, steps: int, asked: int) -> dict[str, Any]:
    """Puzzles solved, by way of writing: 1 or 0 per puzzle."""
    every, vocabulary, number = grids(), FIRST_CELL + CELLS, steps * 64
    random = torch.Generator().manual_seed(seed)
    grid = every[:200][torch.randint(200, (number,), generator=random)]
    question = puzzles(every[200:], asked, 1000 + seed, (BLANKS, BLANKS))
    training = Training(steps, 64, 2e-3)
    if noise == "masks":
        model = fit(make(vocabulary, MASK, CELLS, seed, twin=False), Rows(grid), training, seed)
        found = {name: written(model, question, question == MASK, order, seed) for name, order in ORDERS.items()}
        del found["right to left"]
    else:
        puzzle = grid.masked_fill(torch.rand(grid.shape, generator=random).argsort(1).argsort(1) < BLANKS, MASK)
        read = puzzle.masked_fill(puzzle == MASK, BLANK)
        rows = torch.cat([read, grid], 1) if noise == "twin, row by row" else as_pairs(puzzle, grid)
        is_answer = torch.arange(rows.shape[1]) >= CELLS
        model = make(vocabulary, MASK, rows.shape[1], seed, twin=True)
        fit(model, Rows(rows, is_answer.expand_as(rows)), training, seed)
        canvas = torch.full((asked, rows.shape[1]), MASK)
        canvas[:, :CELLS] = question.masked_fill(question == MASK, BLANK)
        answer = written(model, canvas, is_answer.expand_as(canvas), LeftToRight(), seed)
        found = {noise: answer[:, CELLS:] if noise == "twin, row by row" else of_pairs(question, answer)}
    kept = {name: (cells == question) | (question == MASK) for name, cells in found.items()}
    return {name: (solved(cells) & kept[name].all(1)).double().tolist() for name, cells in found.items()}


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


STUDIES: dict[str, tuple[Callable[[str, int, int, int], dict[str, Any]], list[str], int, list[tuple[str, str]]]] = {
    "sudoku": (
        sudoku,
        ["masks", "twin, row by row", "twin, solver's order"],
        600,
        [
            ("margin", "random order"),
            ("margin", "top probability"),
            ("margin", "twin, row by row"),
            ("margin", "twin, solver's order"),
            ("twin, solver's order", "twin, row by row"),
        ],
    ),
    "addition": (
        addition,
        ["masks", "twin, as it is read", "twin, last digit first"],
        1200,
        [
            ("right to left, 4", "top probability, 4"),
            ("random order, 4", "top probability, 4"),
            ("top probability, 0", "top probability, 4"),
            ("right to left, 4", "twin, as it is read, 4"),
        ],
    ),
}
"""Of each: what runs, the models, steps of training, and pairs of which the first is to be better."""


def study(name: str, folder: Path, seeds: int, steps: int | None = None, asked: int = 500) -> str:
    """Train, ask, and tell; as Markdown.

    Args:
        name: of the study.
        folder: where runs are kept.
        seeds: of each model.
        steps: of training; None for those of the study.
        asked: puzzles per seed.
    """
    run, models, usual, claims = STUDIES[name]
    found: dict[str, list[Any]] = {}
    for _, _, result in Study(folder / name, seeds).runs(
        models, lambda model, seed: run(model, seed, steps or usual, asked)
    ):
        del result["processor_seconds"]
        for way, right in result.items():
            found.setdefault(way, []).append(right)
    lines = ["| way of writing | right, % |", "|---|---|"]
    lines += [f"| {way} | {mean_over_seeds(right).percent()} |" for way, right in found.items()]
    for better, than in claims:
        more = difference_over_seeds(found[better], found[than])
        lines.append(f"\n{'holds' if more.above(0.0) else 'does not hold'}: {better} beats {than}: {more}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=OUT, help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(study(options.study, options.out, options.seeds))
