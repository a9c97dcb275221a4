"""Countdown as a task for rewards.py: three numbers and a target, and an expression that reaches it with all three."""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from reward_task import RewardTask
from torch import Tensor
from typing_extensions import override

from llada import BidirectionalTransformer
from llada.rewards import Countdown, Prompt, Reward

SIGNS = "+-*"
ASKED, ANSWER = 4, 5  # tokens: three numbers and the target; three numbers with signs between


class Question(NamedTuple):
    """Numbers, in ascending order, and what they are to reach."""

    numbers: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class CountdownTask(RewardTask):
    """Three different numbers and a target that they reach; a fifth of all such questions is for judging.

    A token is a number, a sign or the mask: ids 1 to ``top`` are the numbers themselves.

    Args:
        largest: number that is given.
        top: largest target; targets begin at 1.
    """

    largest: int = 15
    top: int = 99

    solved: ClassVar[Reward] = Countdown()
    parts: ClassVar[dict[str, Reward]] = {"numbers": Countdown(well_formed=0.1)}

    @property
    @override
    def mask(self) -> int:
        return self.top + 1 + len(SIGNS)

    @cached_property
    def answers(self) -> dict[Question, list[list[int]]]:
        """Every question with all of its answers, as tokens."""
        found: dict[Question, list[list[int]]] = {}
        for chosen in itertools.combinations(range(1, self.largest + 1), 3):
            for (a, b, c), (first, second) in itertools.product(
                itertools.permutations(chosen), itertools.product(SIGNS, repeat=2)
            ):
                value = _value(a, first, b, second, c)
                if 1 <= value <= self.top:
                    answer = [a, self._sign(first), b, self._sign(second), c]
                    found.setdefault(Question(chosen, value), []).append(answer)
        return found

    @cached_property
    def questions(self) -> tuple[list[Question], list[Question]]:
        """For training, and for judging."""
        every = list(self.answers)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = len(every) // 5
        return [every[at] for at in order[held_out:]], [every[at] for at in order[:held_out]]

    @override
    def network(self, width: int, layers: int) -> BidirectionalTransformer:
        return BidirectionalTransformer(self.mask + 1, width=width, num_layers=layers, num_heads=4)

    @override
    def ask(self, number: int, seed: int, held_out: bool = False) -> list[Prompt]:
        return [
            Prompt([*cells, *[self.mask] * ANSWER], "", {"numbers": list(question.numbers), "target": question.target})
            for question, cells in self._drawn(number, seed, held_out)
        ]

    @override
    def show(self, number: int, seed: int) -> list[dict[str, Tensor]]:
        random = torch.Generator().manual_seed(seed + 1)
        maskable = torch.arange(ASKED + ANSWER) >= ASKED
        rows = []
        for question, cells in self._drawn(number, seed, held_out=False):
            answers = self.answers[question]
            answer = answers[int(torch.randint(len(answers), (), generator=random))]
            rows.append({"tokens": torch.tensor([*cells, *answer]), "maskable": maskable})
        return rows

    @override
    def text(self, row: list[int]) -> str:
        return " ".join(str(cell) if cell <= self.top else SIGNS[cell - self.top - 1] for cell in row[ASKED:])

    def _sign(self, sign: str) -> int:
        return self.top + 1 + SIGNS.index(sign)

    def _drawn(self, number: int, seed: int, held_out: bool) -> list[tuple[Question, list[int]]]:
        """Questions with their numbers in an order by chance."""
        random = torch.Generator().manual_seed(seed)
        questions = self.questions[held_out]
        drawn = [questions[at] for at in torch.randint(len(questions), (number,), generator=random).tolist()]
        orders = torch.rand(number, 3, generator=random).argsort(1).tolist()
        cells = ([*(each.numbers[at] for at in order), each.target] for each, order in zip(drawn, orders, strict=True))
        return list(zip(drawn, cells, strict=True))


def _value(a: int, first: str, b: int, second: str, c: int) -> int:
    """A product before a sum, as arithmetic has it."""
    if second == "*" and first != "*":
        return _apply(a, first, b * c)
    return _apply(_apply(a, first, b), second, c)


def _apply(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b
