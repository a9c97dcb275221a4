"""How many states and steps the making of an automaton may take.

An expression of twenty letters can stand for a million states, such as ``(.*a.{18})``; so states are counted while they
are made, and so is the work.
"""

import re

MAX_STATES = 1024
"""With LLaDA's 126,464 tokens the table of so many states takes some seconds to make, and 65 MB at most."""

_PARTS, _WORK = 16, 2000  # of the nondeterministic automaton, and single steps, for each state that is allowed
_ENTRIES = 8192  # of the table over tokens, likewise

_SPELT = 1 << 16
"""Characters: each is looked at on its own, some ten microseconds long."""
_CHARACTER = r"(\\U[0-9a-fA-F]{8}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|[^\\])"
_RANGE = re.compile(f"{_CHARACTER}-{_CHARACTER}", re.DOTALL)


class BudgetExceededError(ValueError):
    """An expression needs more states or work than it may have."""


class Budget:
    """How much may be made of an expression.

    Args:
        pattern: the expression, for the message.
        max_states: states of a deterministic automaton.
    """

    def __init__(self, pattern: str, max_states: int) -> None:
        self.pattern, self.max_states = pattern, max_states
        self.parts, self.work = _PARTS * max_states, _WORK * max_states

    @property
    def shown(self) -> str:
        """The expression, or its beginning, for messages."""
        return repr(self.pattern if len(self.pattern) <= 60 else self.pattern[:57] + "...")

    def check_classes(self) -> None:
        """Compare the characters that ranges such as [a-z] spell out with the limit."""
        spelt = sum(max(0, _code(end) - _code(begin) + 1) for begin, end in _RANGE.findall(self.pattern))
        if spelt > _SPELT:
            raise BudgetExceededError(
                f"{self.shown} spells out {spelt} characters in its ranges, more than the {_SPELT} that are taken; "
                "write [^...], with what must not stand there"
            )

    def add_part(self) -> None:
        """Count a state of the nondeterministic automaton."""
        self.parts -= 1
        if self.parts < 0:
            self._refuse("parts, repetitions written out", _PARTS * self.max_states)

    def spend(self, steps: int) -> None:
        """Count steps of work."""
        self.work -= steps
        if self.work < 0:
            self._refuse("steps of work", _WORK * self.max_states)

    def check_states(self, count: int) -> None:
        """Compare a number of states with the limit."""
        if count > self.max_states:
            self._refuse("states", self.max_states)

    def check_table(self, entries: int) -> None:
        """Compare the size of the table of states by classes of tokens with the limit."""
        if entries > _ENTRIES * self.max_states:
            self._refuse("entries in its table over tokens", _ENTRIES * self.max_states)

    def _refuse(self, what: str, limit: int) -> None:
        raise BudgetExceededError(
            f"{self.shown} needs more than {limit} {what}, the limit for max_states={self.max_states}; shorten its "
            "repetitions ({0,300} costs 300 times what it repeats, and two that overlap multiply), write * or + in "
            "their place, or allow more by max_states (on the command line --regex_max_states)"
        )


def _code(character: str) -> int:
    return int(character[2:], 16) if character.startswith("\\") else ord(character)
