"""Rewards of puzzles whose answers can be checked by rule: countdown and sudoku."""

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from typing_extensions import override

from llada.rewards.answers import Extract, Whole, as_number
from llada.rewards.arithmetic import Value, evaluate
from llada.rewards.reward import Reward, Row, field


@dataclass(frozen=True)
class Countdown(Reward):
    """1 if the answer reaches the target with the given numbers, each of them once; "= target" behind it is allowed.

    Args:
        numbers: field with the numbers, a list, or a text such as "3,4,25".
        target: field with the target.
        extract: where the expression stands.
        use_all: whether every number has to be used; False: each at most once.
        well_formed: reward of an expression with the right numbers and another value.

    Examples:
        >>> from llada.rewards import Countdown
        >>> row = {"numbers": [3, 4, 25], "target": 37}
        >>> [Countdown(well_formed=0.1).score("", answer, row) for answer in ("25 + 3 * 4 = 37", "25 + 3 + 4", "37")]
        [1.0, 0.1, 0.0]
    """

    numbers: str = "numbers"
    target: str = "target"
    extract: Extract = Whole()  # noqa: RUF009 - frozen
    use_all: bool = True
    well_formed: float = 0.0

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        given, target = (
            _numbers(field(row, self.numbers), self.numbers),
            as_number(field(row, self.target), self.target),
        )
        found = self.extract(answer)
        result = None if found is None else _sides(found)
        if result is None:
            return 0.0
        used = Counter(result.numbers)
        fits = used == given if self.use_all else used <= given
        return 0.0 if not fits else 1.0 if result.value == target else self.well_formed


@dataclass(frozen=True)
class Sudoku(Reward):
    """1 if the answer is a full grid that keeps the rules and the puzzle's clues, else 0; any size n with n = m * m.

    Args:
        puzzle: field with the puzzle, row by row: n * n characters, "0" or "." for a blank.
        extract: where the grid stands; white space in it doesn't count.

    Examples:
        >>> from llada.rewards import Sudoku
        >>> puzzle = {"puzzle": "1034 3412 2143 4321".replace(" ", "")}
        >>> [Sudoku().score("", grid, puzzle) for grid in ("1234 3412 2143 4321", "1134 3412 2143 4321")]
        [1.0, 0.0]
    """

    puzzle: str = "puzzle"
    extract: Extract = Whole()  # noqa: RUF009 - frozen

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        clues, found = _grid(field(row, self.puzzle), self.puzzle), self.extract(answer)
        cells = "" if found is None else "".join(found.split())
        if len(cells) != len(clues) or any(clue not in ("0", cell) for clue, cell in zip(clues, cells, strict=True)):
            return 0.0
        size = math.isqrt(len(cells))
        wanted = set("123456789"[:size])
        return float(all({cells[at] for at in unit} == wanted for unit in units(size)))


@dataclass(frozen=True)
class SudokuCells(Reward):
    """The share of blank cells that are filled as in the record's solution: a reward for parts of the way.

    Args:
        puzzle: field with the puzzle, as in `Sudoku`.
        solution: field with the full grid.
        extract: where the grid stands.

    Examples:
        >>> from llada.rewards import SudokuCells
        >>> record = {"puzzle": "1034341221430000", "solution": "1234341221434321"}
        >>> SudokuCells().score("", "1234 3412 2143 4312", record)  # three of the five blanks
        0.6
    """

    puzzle: str = "puzzle"
    solution: str = "solution"
    extract: Extract = Whole()  # noqa: RUF009 - frozen

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        clues, wanted = _grid(field(row, self.puzzle), self.puzzle), _grid(field(row, self.solution), self.solution)
        if len(clues) != len(wanted):
            raise ValueError(f"puzzle and solution have {len(clues)} and {len(wanted)} cells")
        found = self.extract(answer)
        cells = "" if found is None else "".join(found.split())
        blanks = [at for at, clue in enumerate(clues) if clue == "0"]
        return sum(cells[at : at + 1] == wanted[at] for at in blanks) / max(len(blanks), 1)


def units(size: int) -> list[list[int]]:
    """The rows, columns and boxes of a grid, as places in its text."""
    side, whole = math.isqrt(size), range(size)
    rows = [[row * size + column for column in whole] for row in whole]
    columns = [[row * size + column for row in whole] for column in whole]
    boxes = [[(box // side * side + k // side) * size + box % side * side + k % side for k in whole] for box in whole]
    return [*rows, *columns, *boxes]


def _sides(text: str) -> Value | None:
    """The value of the left side; None if there is none, or the right one says something else."""
    left, equals, right = text.partition("=")
    value = evaluate(left)
    if value is None or not equals:
        return value
    other = evaluate(right)
    return value if other is not None and other.value == value.value else None


def _numbers(value: Any, name: str) -> Counter[Fraction]:
    listed = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError(f"the field {name!r} must be a list of numbers, or a text such as '3,4,25'; got {value!r}")
    return Counter(as_number(one, name) for one in listed)


def _grid(value: Any, name: str) -> str:
    cells = "".join(value.split()).replace(".", "0") if isinstance(value, str) else ""
    side = math.isqrt(math.isqrt(len(cells)))
    if side not in (2, 3) or side**4 != len(cells) or not set(cells) <= set("0123456789"[: side * side + 1]):
        raise ValueError(f"the field {name!r} must be a text of 16 or 81 digits, row by row; got {value!r}")
    return cells
