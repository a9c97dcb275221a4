"""The 4 x 4 sudoku of rewards.py: grids and puzzles, what of a grid is right, and how a network tells cells apart."""

import itertools

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


def puzzles(choice: Tensor, number: int, seed: int, blanks: tuple[int, int]) -> Tensor:
    """Puzzles with blanks at random places, from the least to the most of ``blanks``, (number, 16) int64."""
    random = torch.Generator().manual_seed(seed)
    full = choice[torch.randint(len(choice), (number,), generator=random)]
    count = torch.randint(blanks[0], blanks[1] + 1, (number, 1), generator=random)
    rank = torch.rand(number, CELLS, generator=random).argsort(1).argsort(1)
    return full.masked_fill(rank < count, MASK)


def solved(cells: Tensor) -> Tensor:
    """Which grids keep the rules, (B,) bool."""
    digits = torch.arange(SIDE)
    return torch.stack([(cells[:, unit].sort(1).values == digits).all(1) for unit in UNITS]).all(0)


def most_certain_first(puzzle: Tensor, grid: Tensor, number: int) -> Tensor:
    """The blanks of puzzles in the order of a patient solver: next is a cell that most of its neighbours narrow down.

    Args:
        puzzle: (B, 16) int64, with ``number`` blanks in each row.
        grid: (B, 16), the same without blanks.
        number: of blanks.

    Returns:
        (B, number) int64, cells.
    """
    neighbours = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    for unit in UNITS:
        neighbours[torch.tensor(unit)[:, None], unit] = True
    cells, found = puzzle.clone(), []
    for _ in range(number):
        held = (cells[:, None] == torch.arange(SIDE)[:, None]).long()  # (B, digit, cell)
        excluded = (held @ neighbours.long() > 0).sum(1)  # digits that stand in a cell's row, column or box
        chosen = excluded.masked_fill(cells != MASK, -1).argmax(1, keepdim=True)
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
