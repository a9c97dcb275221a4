"""4 x 4 sudoku as a task for rewards.py: a puzzle is a canvas of 16 cells, of which some are blank."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from reward_task import RewardTask
from sudoku import MASK, SIDE, CellEmbedding, RightUnits, grids, puzzles
from torch import Tensor
from typing_extensions import override

from llada import BidirectionalTransformer
from llada.rewards import Prompt, Reward, Sudoku


@dataclass(frozen=True)
class SudokuTask(RewardTask):
    """Of the 288 grids 200 are for training, and the other 88 for judging.

    Args:
        least: blanks of a puzzle, at least.
        most: and at most.
    """

    least: int = 6
    most: int = 8

    solved: ClassVar[Reward] = Sudoku()
    parts: ClassVar[dict[str, Reward]] = {"units": RightUnits()}

    @property
    @override
    def mask(self) -> int:
        return MASK

    @cached_property
    def grids(self) -> tuple[Tensor, Tensor]:
        """For training, and for judging; (N, 16) int64."""
        every = grids()
        return every[:200], every[200:]

    @override
    def network(self, width: int, layers: int) -> BidirectionalTransformer:
        network = BidirectionalTransformer(SIDE + 1, width=width, num_layers=layers, num_heads=4)
        network.embedding = CellEmbedding(SIDE + 1, width)
        return network

    @override
    def ask(self, number: int, seed: int, held_out: bool = False) -> list[Prompt]:
        asked = puzzles(self.grids[held_out], number, seed, (self.least, self.most)).tolist()
        texts = ["".join(str(cell + 1) if cell < MASK else "0" for cell in puzzle) for puzzle in asked]
        return [Prompt(puzzle, text, {"puzzle": text}) for puzzle, text in zip(asked, texts, strict=True)]

    @override
    def show(self, number: int, seed: int) -> list[dict[str, Tensor]]:
        training = self.grids[0]
        drawn = torch.randint(len(training), (number,), generator=torch.Generator().manual_seed(seed))
        return [{"tokens": grid} for grid in training[drawn]]

    @override
    def text(self, row: list[int]) -> str:
        return "".join(str(cell + 1) for cell in row)
