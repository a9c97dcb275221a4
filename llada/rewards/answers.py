"""Rewards that compare an answer with the one in the record, and the rules by which an answer is found in a text."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from typing_extensions import override

from llada.rewards.arithmetic import evaluate, last_number
from llada.rewards.reward import Reward, Row, field


class Extract(ABC):
    """Where the answer stands in what a model wrote."""

    @abstractmethod
    def __call__(self, text: str) -> str | None:
        """The part of the text that counts, without white space around it; None if it isn't there."""


@dataclass(frozen=True)
class Whole(Extract):
    """All of it.

    Examples:
        >>> from llada.rewards import ExactMatch, Whole
        >>> Whole()("  4 ")
        '4'
        >>> ExactMatch(extract=Whole()).score("2 + 2 =", "it is 4", {"answer": "4"})
        0.0
    """

    @override
    def __call__(self, text: str) -> str | None:
        return text.strip()


@dataclass(frozen=True)
class Between(Extract):
    """What stands between two marks, the last time that both do.

    Args:
        begin: the mark before it.
        end: the mark behind it; empty for the end of the text.

    Raises:
        ValueError: if there is no mark before it.

    Examples:
        >>> from llada.rewards import Between
        >>> Between()("Is it <answer> 5 </answer>? No: <answer> 4 </answer>.")
        '4'
        >>> Between(begin="####", end="")("2 + 2 makes #### 4")
        '4'
    """

    begin: str = "<answer>"
    end: str = "</answer>"

    def __post_init__(self) -> None:
        if not self.begin:
            raise ValueError("begin must be a text such as '<answer>'; it is empty")

    @override
    def __call__(self, text: str) -> str | None:
        stop = text.rfind(self.end) if self.end else len(text)
        start = -1 if stop < 0 else text.rfind(self.begin, 0, stop)
        return None if start < 0 else text[start + len(self.begin) : stop].strip()


@dataclass(frozen=True)
class ExactMatch(Reward):
    """1 if the answer is the record's, else 0.

    Args:
        answer: field with the right answer.
        extract: where the answer stands.
        ignore_case: whether case doesn't matter.

    Examples:
        >>> from llada.rewards import Between, ExactMatch
        >>> reward = ExactMatch(extract=Between(), ignore_case=True)
        >>> reward(["Capital of Norway?"] * 2, ["It's <answer>oslo</answer>", "Oslo"], [{"answer": "Oslo"}] * 2)
        tensor([1., 0.], dtype=torch.float64)
    """

    answer: str = "answer"
    extract: Extract = Whole()
    ignore_case: bool = False

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        wanted, found = str(field(row, self.answer)).strip(), self.extract(answer)
        if found is not None and self.ignore_case:
            wanted, found = wanted.casefold(), found.casefold()
        return float(found == wanted)


@dataclass(frozen=True)
class Number(Reward):
    """1 if the last number in the answer is the record's, else 0; compared as exact fractions.

    Args:
        answer: field with the right number, or with a text whose last number it is.
        extract: where the answer stands.
        tolerance: how far from it a number may be.

    Raises:
        ValueError: if ``tolerance`` is negative.

    Examples:
        >>> from llada.rewards import Number
        >>> answers = ["3 apples and 4 apples are 7", "it costs 7.00", "seven"]
        >>> Number()([""] * 3, answers, [{"answer": "7"}] * 3)
        tensor([1., 1., 0.], dtype=torch.float64)
    """

    answer: str = "answer"
    extract: Extract = Whole()
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        wanted, found = as_number(field(row, self.answer), self.answer), self.extract(answer)
        number = None if found is None else last_number(found)
        return float(number is not None and abs(number - wanted) <= Fraction(self.tolerance))


@dataclass(frozen=True)
class Expression(Reward):
    """1 if the answer is an arithmetic expression with the record's value, else 0 (`llada.rewards.arithmetic`).

    Args:
        value: field with the value.
        extract: where the expression stands.
        tolerance: how far from it the value may be.
        well_formed: reward of an expression with another value.

    Raises:
        ValueError: if ``tolerance`` is negative.

    Examples:
        >>> from llada.rewards import Expression
        >>> reward = Expression(value="target", well_formed=0.1)
        >>> reward([""] * 3, ["(3 + 5) * 3", "3 * 3", "twenty-four"], [{"target": 24}] * 3)
        tensor([1.0000, 0.1000, 0.0000], dtype=torch.float64)
    """

    value: str = "answer"
    extract: Extract = Whole()
    tolerance: float = 0.0
    well_formed: float = 0.0

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        wanted, found = as_number(field(row, self.value), self.value), self.extract(answer)
        result = None if found is None else evaluate(found)
        if result is None:
            return 0.0
        return 1.0 if abs(result.value - wanted) <= Fraction(self.tolerance) else self.well_formed


@dataclass(frozen=True)
class Length(Reward):
    """1 for answers of a wanted length, less for others: it falls to 0 over ``slack`` characters on either side.

    Args:
        least: characters from which on an answer is long enough.
        most: characters up to which it is short enough; None for any number.
        slack: over how many characters the reward falls to 0; 0 at once.

    Raises:
        ValueError: if a number is negative, or ``most`` is less than ``least``.

    Examples:
        >>> from llada.rewards import Length
        >>> Length(most=5, slack=4)([""] * 3, ["short", "longer", "far too long"], [{}] * 3)
        tensor([1.0000, 0.7500, 0.0000], dtype=torch.float64)
    """

    least: int = 0
    most: int | None = None
    slack: int = 0

    def __post_init__(self) -> None:
        if self.least < 0 or self.slack < 0 or (self.most is not None and self.most < self.least):
            raise ValueError(f"least and slack must be 0 or more, and most as much as least or more; got {self}")

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        over = 0 if self.most is None else len(answer) - self.most
        away = max(self.least - len(answer), over, 0)
        return max(0.0, 1.0 - away / self.slack) if self.slack else float(away == 0)


def as_number(value: Any, name: str) -> Fraction:
    """A number of a record, which may be the last one of a text.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0:
        return Fraction(str(value))
    found = last_number(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"the field {name!r} must be a number, or a text with one; got {value!r}")
    return found


def _check_tolerance(tolerance: float) -> None:
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be 0 or more; got {tolerance}")
