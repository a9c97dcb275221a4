"""The study of orders: what its tasks ask, and that each way of writing is judged by the rules and not by a string."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("orders")


def value(digits: Tensor) -> Tensor:
    return (digits * 10 ** torch.arange(digits.shape[1] - 1, -1, -1)).sum(1)


@pytest.mark.parametrize("chain", [0, 1, 4])
def test_sums_are_right_and_a_carry_runs_as_far_as_asked(orders: ModuleType, chain: int) -> None:
    task = orders.Additions(6)
    rows = task.draw_chains(200, chain, seed=1)
    first, second, total = rows[:, :6], rows[:, 7:13], rows[:, 14:]
    assert torch.equal(value(first) + value(second), value(total))
    for columns in (first + second).tolist():
        nines = "".join("n" if column == 9 else "c" if column > 9 else "." for column in columns)
        assert nines.count("n") == chain
        assert chain * "n" + "c" in nines


def test_a_solver_fills_a_cell_that_its_neighbours_decide(orders: ModuleType) -> None:
    grid = orders.grids()[:50]
    puzzle = orders.puzzles(grid, 50, 0, (10, 10))
    whole = torch.stack([row for row in grid])
    matching = torch.stack([whole[((whole == p) | (p == orders.MASK)).all(1)][0] for p in puzzle])
    cells = orders.most_certain_first(puzzle, matching, 10)
    assert torch.equal(cells.sort(1).values, (puzzle == orders.MASK).nonzero()[:, 1].view(50, 10))
    rows = orders.as_pairs(puzzle, matching)
    assert torch.equal(orders.of_pairs(puzzle, rows), matching)
    rows[:, -2] = orders.FIRST_CELL + (puzzle != orders.MASK).long().argmax(1)  # a cell that is given
    assert not orders.solved(orders.of_pairs(puzzle, rows)).any()


def test_every_way_is_asked_and_told(orders: ModuleType, tmp_path: Path) -> None:
    for name, ways in (("sudoku", 6), ("addition", 21)):
        table = orders.study(name, tmp_path, seeds=1, steps=2, asked=8)
        assert table.count("| 0 (") + table.count("| 12 (") == ways
        assert table.count("hold: ") + table.count("holds: ") == len(orders.STUDIES[name][3])
