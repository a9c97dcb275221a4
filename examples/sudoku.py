"""Sudoku of 4 x 4 and of 9 x 9: grids and puzzles, what of a grid is right, and how a network tells cells apart.

Digits are 0 to side - 1; a blank is written as the side.
"""

import itertools
import math
import random

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.rewards import Reward, Row
from llada.rewards.puzzles import units

SIDE, CELLS, MASK = 4, 16, 4
UNITS = units(SIDE)


def grids() -> Tensor:
    """All grids, (288, 16) int64, in a random order that is always the same."""
    found = []
    rows = list(itertools.permutations(range(SIDE)))
    for first, second in itertools.product(rows, rows):
        if any(len(set(first[side : side + 2] + second[side : side + 2])) < SIDE for side in (0, 2)):
            continue
        for third, fourth in itertools.product(rows, rows):
            grid = first + second + third + fourth
            if all(len({grid[cell] for cell in unit}) == SIDE for unit in UNITS):
                found.append(grid)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found)[order]


def large_grids(number: int, seed: int, side: int = 9) -> Tensor:
    """Grids by a solver that begins with nothing, (number, side * side) int64."""
    chance = random.Random(seed)
    return torch.tensor([_filled([side] * side**2, neighbours(side), chance) for _ in range(number)])


def _filled(cells: list[int], seen: Tensor, chance: random.Random) -> list[int]:
    """Fills blanks: next is always a cell with the fewest digits left, and it gets one of them by chance."""
    side = math.isqrt(len(cells))
    places = [row.nonzero()[:, 0].tolist() for row in seen]

    def search() -> bool:
        left = {
            cell: set(range(side)) - {cells[other] for other in places[cell]}
            for cell, digit in enumerate(cells)
            if digit == side
        }
        if not left:
            return True
        cell = min(left, key=lambda cell: (len(left[cell]), chance.random()))
        for digit in chance.sample(sorted(left[cell]), len(left[cell])):
            cells[cell] = digit
            if search():
                return True
        cells[cell] = side
        return False

    search()
    return cells


def varied(grids: Tensor, number: int, draws: torch.Generator) -> Tensor:
    """Grids of the same kinds: digits renamed, rows, columns and their bands exchanged, turned over; like ``grids``.

    Args:
        grids: (N, side * side) int64.
        number: of grids, each made from one of them by chance.
        draws: makes the choices.
    """
    side = math.isqrt(grids.shape[1])
    box = math.isqrt(side)

    def order(count: int) -> Tensor:
        """(number, count), permutations."""
        return torch.rand(number, count, generator=draws).argsort(1)

    def lines() -> Tensor:
        """(number, side), rows or columns: bands in any order, and those of a band in any order."""
        bands, within = order(box), torch.stack([order(box) for _ in range(box)], 1)
        return (box * bands[:, :, None] + within).flatten(1)

    chosen = grids[torch.randint(len(grids), (number,), generator=draws)]
    cells = (side * lines()[:, :, None] + lines()[:, None, :]).flatten(1)
    renamed = order(side).gather(1, chosen.gather(1, cells))
    turned = renamed.view(number, side, side).transpose(1, 2).flatten(1)
    return torch.where(torch.rand(number, 1, generator=draws) < 0.5, renamed, turned)


def puzzles(choice: Tensor, number: int, seed: int, blanks: tuple[int, int]) -> Tensor:
    """Puzzles with blanks at random places, from the least to the most of ``blanks``, (number, cells) int64."""
    random = torch.Generator().manual_seed(seed)
    full = choice[torch.randint(len(choice), (number,), generator=random)]
    count = torch.randint(blanks[0], blanks[1] + 1, (number, 1), generator=random)
    rank = torch.rand(full.shape, generator=random).argsort(1).argsort(1)
    return full.masked_fill(rank < count, math.isqrt(full.shape[1]))


def solved(cells: Tensor) -> Tensor:
    """Which grids keep the rules, (B,) bool."""
    side = math.isqrt(cells.shape[1])
    digits = torch.arange(side)
    return torch.stack([(cells[:, unit].sort(1).values == digits).all(1) for unit in units(side)]).all(0)


def neighbours(side: int) -> Tensor:
    """Which cells share a row, a column or a box, or are the same, (cells, cells) bool."""
    found = torch.zeros(side**2, side**2, dtype=torch.bool)
    for unit in units(side):
        found[torch.tensor(unit)[:, None], unit] = True
    return found


def most_certain_first(puzzle: Tensor, grid: Tensor, number: int) -> Tensor:
    """The blanks of puzzles in the order of a patient solver: next is a cell that most of its neighbours narrow down.

    Args:
        puzzle: (B, cells) int64, with ``number`` blanks in each row.
        grid: (B, cells), the same without blanks.
        number: of blanks.

    Returns:
        (B, number) int64, cells.
    """
    side = math.isqrt(puzzle.shape[1])
    seen = neighbours(side).float()
    cells, found = puzzle.clone(), []
    for _ in range(number):
        held = (cells[:, None] == torch.arange(side)[:, None]).float()  # (B, digit, cell)
        excluded = (held @ seen > 0).sum(1)  # digits that stand in a cell's row, column or box
        chosen = excluded.masked_fill(cells != side, -1).argmax(1, keepdim=True)
        cells = cells.scatter(1, chosen, grid.gather(1, chosen))
        found.append(chosen)
    return torch.cat(found, 1)


class RightUnits(Reward):
    """The share of rows, columns and boxes that hold every digit once."""

    def score(self, prompt: str, answer: str, row: Row) -> float:
        """The reward of one grid."""
        return sum(len({answer[cell] for cell in unit}) == SIDE for unit in UNITS) / len(UNITS)


class CellEmbedding(nn.Embedding):
    """Embeddings of digit and place: without a place, rotary attention knows of two cells only how far apart they are.

    Whether cells 3 and 4 share a row then has to be found out from where the canvas ends. Nothing is said of the rules:
    the vectors of the places are learnt.

    Args:
        vocab_size: digits and the mask.
        width: of a vector.
        places: of a canvas.
    """

    def __init__(self, vocab_size: int, width: int, places: int = CELLS) -> None:
        super().__init__(vocab_size, width)
        self.place = nn.Parameter(torch.empty(places, width))
        for weight in (self.weight, self.place):
            nn.init.normal_(weight, std=width**-0.5)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Vectors of whole canvases, (B, places) int64 to (B, places, width)."""
        return super().forward(input) + self.place
