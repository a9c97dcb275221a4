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


class RightUnits(Reward):
    """The share of rows, columns and boxes that hold every digit once."""

    def score(self, prompt: str, answer: str, row: Row) -> float:
        """The reward of one grid."""
        return sum(len({answer[cell] for cell in unit}) == SIDE for unit in UNITS) / len(UNITS)


class CellEmbedding(nn.Embedding):
    """Embeddings of digit and place: without a place, rotary attention knows of two cells only how far apart they are.

    Whether cells 3 and 4 share a row then has to be found out from where the canvas ends. Nothing is said of the rules:
    the 16 vectors of the places are learnt.

    Args:
        vocab_size: digits and the mask.
        width: of a vector.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.place = nn.Parameter(torch.empty(CELLS, width))
        for weight in (self.weight, self.place):
            nn.init.normal_(weight, std=width**-0.5)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Vectors of whole canvases, (B, 16) int64 to (B, 16, width)."""
        return super().forward(input) + self.place
