"""What a reward is: texts in, numbers out.

    r = reward(prompts, answers, rows)                     one float per answer; the higher, the better

A reward reads what a model wrote and never runs it. Rewards are added up by `Sum`, each with its weight and under a
name of its own, by which it is logged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

Row = Mapping[str, Any]
"""What else is known of a prompt: the fields of its record, such as the right answer."""


class Reward(ABC):
    """Judges answers. One of your own needs `score` alone; it must give the same number for the same texts."""

    @abstractmethod
    def score(self, prompt: str, answer: str, row: Row) -> float:
        """The reward of one answer.

        Args:
            prompt: what was asked.
            answer: what the model wrote, up to its end; it may be anything.
            row: the fields of the prompt's record.

        Raises:
            ValueError: if the record lacks what is needed, or has it in another form. Never because of the answer.
        """

    def parts(self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> dict[str, Tensor]:
        """What the reward is made of, by name, (B,) float64 each; without a name of its own the class's.

        Raises:
            ValueError: if a score isn't a finite number; what `score` raises comes with the answer in question.
        """
        known: dict[tuple[str, str, int], float] = {}  # a group's answers are often the same, and cost the same
        for one in zip(prompts, answers, rows, strict=True):
            key = (one[0], one[1], id(one[2]))
            if key not in known:
                known[key] = self._checked(*one)
        keys = zip(prompts, answers, map(id, rows), strict=True)
        return {type(self).__name__: torch.tensor([known[key] for key in keys], dtype=torch.float64)}

    def _checked(self, prompt: str, answer: str, row: Row) -> float:
        """The score of one answer."""
        name = type(self).__name__
        try:
            value: Any = self.score(prompt, answer, row)
        except Exception as error:
            error.add_note(f"in {name}.score, for the answer {_shortened(answer)} to {_shortened(prompt)}")
            raise
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
        raise ValueError(
            f"{name}.score must give a finite number; got {value!r} for the answer {_shortened(answer)} to "
            f"{_shortened(prompt)}"
        )

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The reward, from its parts, (B,) float64."""
        (value,) = parts.values()
        return value

    def __call__(self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> Tensor:
        """The rewards of B answers, (B,) float64."""
        return self.total(self.parts(prompts, answers, rows))


@dataclass(frozen=True)
class Sum(Reward):
    """Several rewards, each times its weight.

    Args:
        rewards: by name.
        weights: by name; 1 for those that aren't named.

    Raises:
        ValueError: if there are none, or a weight has no reward.

    Examples:
        >>> from llada.rewards import Length, Number, Sum
        >>> reward = Sum({"right": Number(), "short": Length(most=20)}, weights={"short": 0.1})
        >>> answers = ["4", "Two and two are four, that is 4."]
        >>> reward([""] * 2, answers, [{"answer": "4"}] * 2)
        tensor([1.1000, 1.0000], dtype=torch.float64)
        >>> reward.parts([""] * 2, answers, [{"answer": "4"}] * 2)["short"]
        tensor([1., 0.], dtype=torch.float64)
    """

    rewards: Mapping[str, Reward]
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        unknown = set(self.weights or {}) - set(self.rewards)
        if not self.rewards or unknown:
            which = f"no reward is named {', '.join(sorted(unknown))}" if unknown else "there are no rewards"
            raise ValueError(f"{which}; got rewards {', '.join(self.rewards) or '(none)'}")

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        return sum(self._weight(name) * reward.score(prompt, answer, row) for name, reward in self.rewards.items())

    @override
    def parts(self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> dict[str, Tensor]:
        return {name: reward(prompts, answers, rows) for name, reward in self.rewards.items()}

    @override
    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weight(name) * value for name, value in parts.items()]).sum(0)

    def _weight(self, name: str) -> float:
        return (self.weights or {}).get(name, 1.0)


def _shortened(text: str, most: int = 200) -> str:
    return repr(text) if len(text) <= most else f"{text[:most]!r}... ({len(text)} characters)"


def field(row: Row, name: str) -> Any:
    """A field of a prompt's record.

    Raises:
        ValueError: if it isn't there.
    """
    if name not in row:
        raise ValueError(f"the reward needs the field {name!r}; the record has {', '.join(map(str, row)) or 'none'}")
    return row[name]
