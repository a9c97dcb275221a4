"""Sudokus of one size for `orders.py`: what its models learn from, what they are asked, and which answers are right.

LARGE.run("masks", seed=0, steps=4000, asked=300)     # way of writing -> 1 or 0 per puzzle
"""

from dataclasses import dataclass
from typing import Any

import torch
from claims.twins import Rows, Training, fit
from order_models import ORDERS, make, written
from sudoku import SIDE, grids, large_grids, most_certain_first, puzzles, solved, varied
from torch import Tensor

from llada import DiffusionLM
from llada.samplers import LeftToRight

MODELS = ["masks", "twin, row by row", "twin, solver's order"]


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
        """Train one of `MODELS` and ask it; puzzles solved by way of writing, 1 or 0 per puzzle."""
        training = Training(steps, self.rows, self.rate)
        random = torch.Generator().manual_seed(seed)
        grid = self.training(steps * self.rows, random)
        if noise == "masks":
            model = fit(self.model(self.cells, seed, twin=False), Rows(grid), training, seed)
            return self._in_orders(model, asked, seed)
        blank = torch.rand(grid.shape, generator=random).argsort(1).argsort(1) < self.blanks
        puzzle = grid.masked_fill(blank, self.side)
        in_rows = noise == "twin, row by row"
        rows = torch.cat([self.read(puzzle), grid], 1) if in_rows else self.as_pairs(puzzle, grid)
        is_answer = torch.arange(rows.shape[1]) >= self.cells
        model = self.model(rows.shape[1], seed, twin=True)
        fit(model, Rows(rows, is_answer.expand_as(rows)), training, seed)
        question = self.asked(asked, seed, self.blanks)
        canvas = torch.full((asked, rows.shape[1]), self.side)
        canvas[:, : self.cells] = self.read(question)
        answer = written(model, canvas, is_answer.expand_as(canvas), LeftToRight(), seed)
        return {noise: self.right(question, answer[:, self.cells :] if in_rows else self.of_pairs(question, answer))}

    def _in_orders(self, model: DiffusionLM, asked: int, seed: int) -> dict[str, Any]:
        """What the masked model solves, by order of writing and number of blanks."""
        found = {}
        for blanks in (self.blanks, *self.further):
            question = self.asked(asked, seed, blanks)
            for name in ("random order", "left to right", "top probability", "margin"):
                answer = written(model, question, question == self.side, ORDERS[name], seed)
                found[name if blanks == self.blanks else f"{name}, {blanks} blanks"] = self.right(question, answer)
        return found

    def right(self, puzzle: Tensor, cells: Tensor) -> list[float]:
        """1 for grids that keep the puzzle and the rules, else 0."""
        kept = ((cells == puzzle) | (puzzle == self.side)).all(1)
        return (solved(cells) & kept).double().tolist()


SMALL = Sudokus()
LARGE = Sudokus(9, 40, (30, 50), width=96, layers=4, rows=32)
