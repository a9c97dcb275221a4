"""Small tasks on lists and passages, told as plain text for pretraining and as instructions for fine-tuning.

    text            BEGIN c a d backwards d a c END END ...
    instruction     BEGIN please flip letters : c a d = d a c END END ...

Words are tokens. An instruction has a politeness, a verb and an object; a quarter of their combinations is held out,
all of whose words occur in others. A fifth of the arguments is held out too, from text and instructions. Answers go on
with END to the end of the row, as in LLaDA's fine-tuning (`llada.data.EosInAnswer`), so the model learns where to stop.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

LETTERS, NAMES, COLOURS, THINGS = "a b c d e f g h", "tom ann joe sue", "red blue green white", "ball key hat cup"
NUMBERS = "zero one two three four five"
POLITE, OBJECTS = "please now kindly", "letters list items"
ROW = 20
"""Tokens of a row."""


@dataclass(frozen=True)
class Task:
    """What is to be done with a list.

    Args:
        told: the word for it in plain text.
        verbs: the words for it in instructions.
        answer: from the argument's words to the answer's.
    """

    told: str
    verbs: str
    answer: Callable[[list[str]], list[str]]


def _look_up(words: list[str]) -> list[str]:
    """The passage "tom red ball ann blue key ? ann" is answered by "blue key"."""
    place = words.index(words[-1])
    return words[place + 1 : place + 3]


TASKS = {
    "copy": Task("again", "copy repeat echo", list),
    "reverse": Task("backwards", "reverse flip invert", lambda words: words[::-1]),
    "sort": Task("sorted", "sort order arrange", sorted),
    "count": Task("counted", "count number total", lambda words: [NUMBERS.split()[len(words)]]),
    "answer": Task("answered", "answer tell find", _look_up),
}


class Words:
    """The vocabulary: special tokens, then every word."""

    def __init__(self) -> None:
        fixed = f"{LETTERS} {NAMES} {COLOURS} {THINGS} {NUMBERS} {POLITE} {OBJECTS} ? : ="
        tasks = " ".join(f"{task.told} {task.verbs}" for task in TASKS.values())
        self.words = ["BEGIN", "END", "MASK", *fixed.split(), *tasks.split()]
        self.ids = {word: index for index, word in enumerate(self.words)}

    begin, end, mask = range(3)

    def row(self, words: list[str]) -> list[int]:
        """Ids of BEGIN and the words."""
        return [self.begin, *(self.ids[word] for word in words)]


@dataclass(frozen=True)
class Sampled:
    """Rows of one kind: tokens (N, 20), where the answer begins (N,), tasks, and the answers' lengths (N,)."""

    tokens: Tensor
    starts: Tensor
    tasks: list[str]
    lengths: Tensor

    @cached_property
    def answers(self) -> Tensor:
        """(N, 20) bool: from the answer to the end of the row."""
        return torch.arange(ROW) >= self.starts[:, None]


def sample(
    words: Words, rows: int, random: np.random.Generator, as_text: bool, *, new_wording: bool, new_argument: bool
) -> Sampled:
    """Draw rows, all tasks equally often.

    Args:
        words: the vocabulary.
        rows: N.
        random: source of the draws.
        as_text: plain text instead of instructions.
        new_wording: take held-out wordings only; false: none of them.
        new_argument: likewise for arguments.
    """
    tokens, starts, lengths = torch.full((rows, ROW), words.end), [], []
    names = [list(TASKS)[i % len(TASKS)] for i in range(rows)]
    for row, name in enumerate(names):
        argument = _until(partial(_argument, name, random), 5, new_argument)
        told = [*argument, TASKS[name].told]
        if not as_text:
            wording = _until(partial(_wording, name, random), 4, new_wording)
            told = [*wording, ":", *argument, "="]
        answer = TASKS[name].answer(argument)
        ids = words.row([*told, *answer])
        tokens[row, : len(ids)] = torch.tensor(ids)
        starts.append(1 + len(told))
        lengths.append(len(answer))
    return Sampled(tokens, torch.tensor(starts), names, torch.tensor(lengths))


def _argument(task: str, random: np.random.Generator) -> list[str]:
    """A list of 1 to 5 different letters, or a passage with a question."""
    if task != "answer":
        return list(random.permutation(LETTERS.split())[: random.integers(1, 6)])
    who = random.permutation(NAMES.split())[:2]
    facts = [[name, random.choice(COLOURS.split()), random.choice(THINGS.split())] for name in who]
    return [*facts[0], *facts[1], "?", random.choice(who)]


def _wording(task: str, random: np.random.Generator) -> list[str]:
    return [random.choice(part.split()) for part in (POLITE, TASKS[task].verbs, OBJECTS)]


def _until(draw: Callable[[], list[str]], share: int, held_out: bool) -> list[str]:
    """Draw until the words are, or aren't, in the one in ``share`` that is held out; the words alone decide."""
    while True:
        found = draw()
        if (zlib.crc32(" ".join(found).encode()) % share == 0) == held_out:
            return found
