"""A regular expression as a deterministic automaton over characters, made within a budget.

The package ``interegular`` (extra ``regex``) reads the expression. Its parts become a nondeterministic automaton with
empty edges, sets of whose states are the states of the deterministic one, and states that no text tells apart become
one. Characters that no part of the expression tells apart are of one kind.

Shapes: S states, K kinds of characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llada.samplers.constraints.budget import Budget
from llada.samplers.constraints.minimal import Table, minimal


@dataclass(frozen=True)
class CharacterAutomaton:
    """A deterministic automaton over kinds of characters, which begins in state 0.

    Attributes:
        step: (S, K) int64, the next state; -1 where no match is left.
        final: (S,) bool, states in which a match is complete.
        kinds: kind of each character that the expression names.
        other: kind of all others.
    """

    step: NDArray[np.int64]
    final: NDArray[np.bool_]
    kinds: dict[str, int]
    other: int


class _Builder:
    """A nondeterministic automaton with empty edges, part by part; a fragment of it is its (first, last) state."""

    def __init__(self, alphabet: Any, budget: Budget) -> None:
        self.alphabet, self.budget, self.num_kinds = alphabet, budget, len(alphabet.by_transition)
        self.empty: list[list[int]] = []
        self.edges: list[list[tuple[Sequence[int], int]]] = []  # (kinds, next state)

    def state(self) -> int:
        self.budget.add_part()
        self.empty.append([])
        self.edges.append([])
        return len(self.empty) - 1

    def build(self, node: Any, flags: Any, last: bool) -> tuple[int, int]:
        """A part of the parsed expression; ``last`` if nothing of the expression follows it."""
        patterns = _package().patterns
        if isinstance(node, patterns.Pattern):
            flags = patterns._combine_flags(flags, node.added_flags, node.removed_flags)
            return self._either([self.build(option, flags, last) for option in node.options])
        if isinstance(node, patterns._Concatenation):
            return self._sequence(node, flags, last)
        if isinstance(node, patterns._Repeated):
            return self._repeated(node, flags)
        first, end = self.state(), self.state()
        fsm = node.to_fsm(self.alphabet, (0, 0), flags)
        if fsm.initial in fsm.finals:
            self.empty[first].append(end)
        else:
            self.edges[first].append((tuple(fsm.map[fsm.initial]), end))
        return first, end

    def _either(self, options: list[tuple[int, int]]) -> tuple[int, int]:
        first, end = self.state(), self.state()
        for begin, stop in options:
            self.empty[first].append(begin)
            self.empty[stop].append(end)
        return first, end

    def _sequence(self, node: Any, flags: Any, last: bool) -> tuple[int, int]:
        patterns = _package().patterns
        if not last and (node.prefix_postfix != (0, 0) or any(map(_endless, node.parts))):
            raise patterns.Unsupported("what looks ahead of the end of its group")
        behind = self.state()
        first, end, follows = behind, behind, last
        for part in reversed(node.parts):
            if not isinstance(part, patterns._NonCapturing):
                begin, stop = self.build(part, flags, follows)
                follows = False
                self.empty[stop].append(first)
                first = begin
                continue
            if part.backwards:
                raise patterns.Unsupported("what looks behind")
            rest = self.determined(first, end)
            seen, seen_end = self.build(part.inner, flags, False)
            self.edges[seen_end].append((tuple(self.alphabet.by_transition), seen_end))
            first, end = self._embedded(*self._both(rest, self.determined(seen, seen_end), part.negate))
        return first, end

    def _repeated(self, node: Any, flags: Any) -> tuple[int, int]:
        first, end = self.state(), self.state()
        now = first
        for _ in range(node.min):
            begin, stop = self.build(node.base, flags, False)
            self.empty[now].append(begin)
            now = stop
        self.empty[now].append(end)
        if node.max is None:
            begin, stop = self.build(node.base, flags, False)
            self.empty[now].append(begin)
            self.empty[stop].extend((begin, end))
        for _ in range((node.max or 0) - node.min):
            begin, stop = self.build(node.base, flags, False)
            self.empty[now].append(begin)
            self.empty[stop].append(end)
            now = stop
        return first, end

    def determined(self, first: int, end: int) -> tuple[Table, list[bool]]:
        """The deterministic automaton of a fragment: next states, and which are final."""
        numbers, table, final = _Numbers(self.budget, self._closed([first])), [], []
        for states in numbers.order:
            targets: dict[int, set[int]] = {}
            for state in states:
                for kinds, target in self.edges[state]:
                    self.budget.spend(len(kinds))
                    for kind in kinds:
                        targets.setdefault(kind, set()).add(target)
            row = [-1] * self.num_kinds
            found: dict[frozenset[int], int] = {}  # many kinds lead to one set
            for kind, reached in targets.items():
                key = frozenset(reached)
                if key not in found:
                    found[key] = numbers.of(self._closed(key))
                row[kind] = found[key]
            table.append(row)
            final.append(end in states)
        return table, final

    def _closed(self, states: Sequence[int] | frozenset[int]) -> frozenset[int]:
        """States and all that empty edges lead to."""
        closed, waiting = set(states), list(states)
        while waiting:
            nexts = self.empty[waiting.pop()]
            self.budget.spend(1 + len(nexts))
            for state in nexts:
                if state not in closed:
                    closed.add(state)
                    waiting.append(state)
        return frozenset(closed)

    def _both(
        self, one: tuple[Table, list[bool]], other: tuple[Table, list[bool]], negate: bool
    ) -> tuple[Table, list[bool]]:
        """What both automata match, or with ``negate`` the one and not the other."""
        numbers, table, final = _Numbers(self.budget, (0, 0)), [], []
        for a, b in numbers.order:
            self.budget.spend(self.num_kinds)
            row = []
            for kind, to_a in enumerate(one[0][a]):
                to_b = -1 if b < 0 else other[0][b][kind]
                dead = to_a < 0 or (to_b < 0 and not negate)
                row.append(-1 if dead else numbers.of((to_a, to_b)))
            table.append(row)
            final.append(one[1][a] and (b >= 0 and other[1][b]) != negate)
        return table, final

    def _embedded(self, table: Table, final: list[bool]) -> tuple[int, int]:
        """A deterministic automaton as a fragment."""
        states, end = [self.state() for _ in table], self.state()
        for state, row, complete in zip(states, table, final, strict=True):
            self.edges[state] = [((kind,), states[to]) for kind, to in enumerate(row) if to >= 0]
            if complete:
                self.empty[state].append(end)
        return states[0], end


class _Numbers:
    """States in the order in which they are met, and the number of each."""

    def __init__(self, budget: Budget, first: Any) -> None:
        self.budget, self.order, self._index = budget, [first], {first: 0}

    def of(self, state: Any) -> int:
        number = self._index.setdefault(state, len(self.order))
        if number == len(self.order):
            self.order.append(state)
            self.budget.check_states(len(self.order))
        return number


def _endless(part: Any) -> bool:
    return isinstance(part, _package().patterns._NonCapturing) and part.inner.lengths[1] is None


def determine(pattern: str, budget: Budget) -> CharacterAutomaton:
    """The minimal automaton of an expression.

    Args:
        pattern: the expression.
        budget: of its making.

    Raises:
        ImportError: without the package ``interegular``.
        BudgetExceededError: if it needs more than the budget.
        Exception: of the package, if a part of the expression is none of a finite automaton.
    """
    package = _package()
    fsm, flags = package.fsm, package.patterns.REFlags(0)
    parsed = package.parse_pattern(pattern)
    # The empty expression names no characters, so that all of them are others.
    alphabet = fsm.Alphabet.union(parsed.get_alphabet(flags), fsm.Alphabet.from_groups({fsm.anything_else}))[0]
    builder = _Builder(alphabet, budget)
    step, final = minimal(*builder.determined(*builder.build(parsed, flags, True)))
    named = {symbol: int(kind) for symbol, kind in alphabet.items() if isinstance(symbol, str)}
    (other,) = (int(kind) for symbol, kind in alphabet.items() if not isinstance(symbol, str))
    return CharacterAutomaton(step, final, named, other)


def _package() -> Any:
    """The parser of expressions.

    Raises:
        ImportError: if it isn't installed.
    """
    try:
        import interegular
    except ImportError as error:
        raise ImportError("regular expressions need the package interegular; pip install 'llada[regex]'") from error
    return interegular
