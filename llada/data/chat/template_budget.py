"""What one run of a chat template may use: steps, characters, entries of lists, and time.

A template comes with a checkpoint that somebody else wrote. Whatever it does in one step is weighed before or after, so
that it ends with a reason instead of filling the memory: a loop's turn and a call count as steps, a text that is made
counts its characters, a list its entries, and what would make a long text out of short ones is weighed beforehand.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

STEPS = 250_000
"""Turns of loops and calls."""
CHARACTERS = 50_000_000
"""Characters of all texts and entries of all lists that are made; more for longer conversations, see `Budget.of`."""
PER_CHARACTER = 100
"""Characters that may be made for each one of the conversation."""
ENTRIES = 1_000_000
"""Entries of one value, those of its entries included; a list that holds another one twice has its entries twice."""
SECONDS = 10.0
PER_ENTRY = 8
"""Characters that an entry of a list that is made counts as."""
PER_PIECE = 25
"""Characters that each one of a text counts as that a function may cut into pieces."""
LARGEST = 100_000
"""Largest width or number of copies that a function takes."""

_WIDTHS = {
    "center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes", "indent", "wordwrap", "truncate", "batch", "slice",
    "round", "tojson",
}  # fmt: skip
_PRODUCTS = {"replace", "join", "translate", "wordwrap", "indent", "format", "format_map", "urlize", "xmlattr", "batch"}
_SLOW = {"striptags", "urlize", "pprint"}
_LONG_NUMBER = re.compile(r"\d{6,}")
_WIDTH_GIVEN_APART = re.compile(r"\{[^{}]*\{|%[^a-zA-Z%]*\*")


class OverLimitError(Exception):
    """A template wants more than a budget has."""


@dataclass
class Budget:
    """What is left for a run.

    Args:
        characters: that may still be made.
        steps: that may still be taken.
        deadline: by the monotonic clock, in seconds.
        now: the date that the template sees.
    """

    characters: int
    steps: int = 1
    deadline: float = float("inf")
    now: datetime = datetime.min

    @classmethod
    def of(cls, inputs: object, now: datetime) -> "Budget":
        """The budget for rendering a conversation.

        Args:
            inputs: all that the template sees.
            now: the date that it sees.
        """
        characters = CHARACTERS + PER_CHARACTER * weight(inputs, CHARACTERS)
        return cls(characters, STEPS, time.monotonic() + SECONDS, now)

    def step(self, characters: int = 0) -> None:
        """Pay for a turn of a loop or a call, and for the plain text that it writes."""
        self.steps -= 1
        if self.steps < 0:
            raise OverLimitError(f"it takes more than {STEPS:,} turns of loops and calls")
        if time.monotonic() > self.deadline:
            raise OverLimitError(f"it takes more than {SECONDS:.0f} seconds")
        self._pay(characters)

    def made(self, value: Any) -> Any:
        """Pay for a value that was made, and give it back."""
        text = isinstance(value, str | bytes)
        self._pay(weight(value, self.characters, texts=text) * (1 if text else PER_ENTRY))
        return value

    def printed(self, value: Any) -> Any:
        """Pay for the text of a value, before it is made."""
        self._pay(weight(value, self.characters))
        return value

    def allow(self, name: str, arguments: Sequence[Any]) -> None:
        """Refuse a call of a function of the language that would make too much.

        Args:
            name: of a method or filter.
            arguments: the value that it works on, and what else it is given.
        """
        first, *others = arguments
        size = weight(first, self.characters)
        rest = sum(weight(other, self.characters) for other in others)
        if name in ("format", "format_map"):
            self._allow_format(first, others)
        wide = [x for x in others if isinstance(x, int) and abs(x) > LARGEST] if name in _WIDTHS else []
        if wide:
            raise OverLimitError(f"{name}() is to work with {wide[0]:.3g}, more than {LARGEST:,}")
        if name in _SLOW and size > LARGEST:
            raise OverLimitError(f"{name}() is to work on {size:,} characters, more than {LARGEST:,}")
        if name == "sum" and any(isinstance(x, str | list | tuple) for x in others):
            size *= size
        self._fits(max(size * (rest + 1) if name in _PRODUCTS else size + rest, size * PER_PIECE))

    def operate(self, operator: str, left: Any, right: Any) -> None:
        """Refuse an operation that would make too much."""
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(other, int) and not isinstance(one, int | float):
                self._fits(weight(one, self.characters) * max(other, 0))
        if isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            self._fits(bits)
        if operator == "%" and isinstance(left, str):
            others = list(right) if isinstance(right, tuple) else [right]
            self._allow_format(left, others)
            self._fits((len(left) + 1) * (weight(others, self.characters) + 1))

    def _allow_format(self, pattern: Any, values: list[Any]) -> None:
        pattern = pattern if isinstance(pattern, str) else ""
        apart = _WIDTH_GIVEN_APART.search(pattern)
        if _LONG_NUMBER.search(pattern) or (apart and any(isinstance(x, int) and abs(x) > LARGEST for x in values)):
            raise OverLimitError(f"a format asks for a width of more than {LARGEST:,}")

    def _fits(self, characters: int) -> None:
        if characters > self.characters:
            raise OverLimitError(f"it makes more than {self.characters:,} characters")

    def _pay(self, characters: int) -> None:
        self._fits(characters)
        self.characters -= characters


def weight(value: Any, limit: int, texts: bool = True) -> int:
    """Characters and entries of nested lists and objects; counting ends soon after ``limit``, or after `ENTRIES`.

    Args:
        value: anything.
        limit: more than this needn't be told apart.
        texts: whether a text in a list weighs its characters, instead of 1.
    """
    if isinstance(value, str):  # most of what is weighed
        return 1 + (len(value) if texts else 0)
    total, entries, waiting = 0, 0, [value]
    while waiting and total <= limit:
        found = waiting.pop()
        total, entries = total + 1, entries + 1
        if entries > ENTRIES:
            return max(total, limit + 1)
        if isinstance(found, str | bytes):
            total += len(found) if texts else 0
        elif isinstance(found, int):
            total += found.bit_length() // 8
        elif isinstance(found, Mapping):
            waiting.extend(found.keys())
            waiting.extend(found.values())
        elif isinstance(found, list | tuple | set | frozenset):
            waiting.extend(found)
    return total
