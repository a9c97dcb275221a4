"""What a model is to learn until it stops getting better: functions in context, and instructions.

A goal has arms: each is one of the twins and its stages, one after the other. A stage gives fresh rows for every epoch,
so that a training reads nothing twice, and says how accurate a model is on new questions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from examples.claims.in_context import FIRST, MASK, Functions
from examples.claims.instructions import ask
from examples.claims.tasks import Words, sample
from examples.claims.twins import DIFFUSION, TWINS, Recipe, Rows
from examples.claims.until import Batches
from llada import DiffusionLM

BATCH, STEPS_PER_EPOCH = 64, 25
AS_ASKED = f"{DIFFUSION}, masked as asked"  # rows with masks in their last output alone


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Args:
        name: of the part.
        rows: fresh ones: (number of rows, random seed) -> rows.
        accuracy: (model, number of questions, random seed) -> (questions,) float64, 1 for a right answer.
    """

    name: str
    rows: Callable[[int, int], Rows]
    accuracy: Callable[[DiffusionLM, int, int], Tensor]

    def batches(self, seed: int) -> Batches:
        """Epochs of rows that were never read before.

        Args:
            seed: of the run.
        """

        def batches(epoch: int) -> list[dict[str, Tensor]]:
            rows = self.rows(BATCH * STEPS_PER_EPOCH, 1_000_003 * (seed + 1) + epoch)
            maskable = torch.ones_like(rows.tokens, dtype=torch.bool) if rows.maskable is None else rows.maskable
            parts = zip(rows.tokens.split(BATCH), maskable.split(BATCH), strict=True)
            return [{"tokens": tokens, "maskable": where} for tokens, where in parts]

        return batches


@dataclass(frozen=True)
class Arm:
    """A model, and what it is trained on.

    Args:
        twin: its name among `TWINS`.
        stages: one after the other; the last one's questions are told.
    """

    twin: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Goal:
    """What is to be learnt.

    Args:
        recipe: of all models.
        target: the accuracy that is aimed at.
        arms: by their names.
    """

    recipe: Recipe
    target: float
    arms: dict[str, Arm]


def functions() -> Goal:
    """Functions shown by five examples; those that are asked for are in no training row."""
    task = Functions()
    right = partial(_answered, task)
    plain, asked = (Stage("functions", partial(_examples, task, share), right) for share in (0.0, 1.0))
    arms = {name: Arm(name, (plain,)) for name in TWINS} | {AS_ASKED: Arm(DIFFUSION, (asked,))}
    return Goal(Recipe(FIRST + task.symbols, MASK, width=64, num_layers=3, convolution=5), 0.9, arms)


def instructions() -> Goal:
    """Five tasks told as text, then instructions; wordings and arguments that are asked for are in neither."""
    words, parts = Words(), {"as text": True, "instructions": False}
    stages = tuple(
        Stage(name, partial(_told, words, text), partial(_followed, words, text)) for name, text in parts.items()
    )
    recipe = Recipe(len(words.words), words.mask, width=64, num_layers=3, convolution=5)
    return Goal(recipe, 0.95, {name: Arm(name, stages) for name in TWINS})


# Functions of the module, for a goal has to reach other processes.
def _examples(task: Functions, asked: float, number: int, seed: int) -> Rows:
    return task.training_rows(number, torch.Generator().manual_seed(seed), asked)


def _answered(task: Functions, model: DiffusionLM, questions: int, seed: int) -> Tensor:
    return task.ask(model, task.most, questions, seed)


def _told(words: Words, as_text: bool, number: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    drawn = sample(words, number, random, as_text, new_wording=False, new_argument=False)
    return Rows(drawn.tokens) if as_text else Rows(drawn.tokens, drawn.answers)


def _followed(words: Words, as_text: bool, model: DiffusionLM, questions: int, seed: int) -> Tensor:
    random = np.random.default_rng(1_000_000 + seed)
    drawn = sample(words, questions, random, as_text, new_wording=not as_text, new_argument=True)
    return ask(model, drawn, words).right.double()


GOALS = {"functions": functions, "instructions": instructions}
