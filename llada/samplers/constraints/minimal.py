"""The least automaton that matches the same texts, and the numbers of states while one is made.

Shapes: S states, K kinds of characters.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Table = list[list[int]]
"""The next state by state and kind; -1 where no match is left."""


def minimal(table: Table, final: Sequence[bool]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The least automaton that matches the same texts; state 0 stays the first, and a dead end is -1.

    Args:
        table: (S, K) next states.
        final: (S,) which are final.

    Reference:
        Hopcroft, "An n log n algorithm for minimizing states in a finite automaton", 1971.
    """
    dead = len(table)
    before: list[dict[int, list[int]]] = [{} for _ in table[0]]  # by kind: state -> those that lead to it
    for state, row in enumerate([*table, [-1] * len(table[0])]):
        for kind, target in enumerate(row):
            before[kind].setdefault(target if target >= 0 else dead, []).append(state)
    accepting = {state for state, complete in enumerate(final) if complete}
    blocks = [block for block in (accepting, set(range(dead + 1)) - accepting) if block]
    block_of = {state: number for number, block in enumerate(blocks) for state in block}
    waiting = {(number, kind) for number in range(len(blocks)) for kind in range(len(before))}
    while waiting:
        number, kind = waiting.pop()
        touched: dict[int, set[int]] = {}
        for target in blocks[number]:
            for state in before[kind].get(target, ()):
                touched.setdefault(block_of[state], set()).add(state)
        for split, part in touched.items():
            if len(part) == len(blocks[split]):
                continue
            blocks[split] -= part
            fresh = len(blocks)
            blocks.append(part)
            block_of.update(dict.fromkeys(part, fresh))
            for each in range(len(before)):
                smaller = fresh if len(part) <= len(blocks[split]) else split
                waiting.add((fresh if (split, each) in waiting else smaller, each))
    return _renumbered(table, final, block_of)


def _renumbered(
    table: Table, final: Sequence[bool], block_of: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One state for each block, the first state's block first, and none for that of the dead end."""
    dead = block_of[len(table)]
    first = {block_of[state]: state for state in reversed(range(len(table))) if block_of[state] != dead}
    order = sorted(first, key=lambda block: first[block])
    number = {block: index for index, block in enumerate(order)}
    rows = [[number.get(block_of[to], -1) if to >= 0 else -1 for to in table[first[block]]] for block in order]
    return np.array(rows, dtype=np.int64).reshape(-1, len(table[0])), np.array([final[first[block]] for block in order])
