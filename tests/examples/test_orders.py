"""The study of orders: what its tasks ask, and that each way of writing is judged by the rules and not by a string."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from llada.published.catalogue import EXPERIMENTS

CLAIMS = [("margin", "random order"), ("margin, 8 blanks", "twin, row by row")]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("orders")


@pytest.fixture
def sudokus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("sudoku_orders")


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


@pytest.mark.parametrize("side", [4, 9])
def test_a_solver_fills_a_cell_that_its_neighbours_decide(sudokus: ModuleType, side: int) -> None:
    task = sudokus.Sudokus(side=side, blanks=10)
    grid = sudokus.grids()[:50] if side == 4 else sudokus.large_grids(5, seed=3)
    puzzle = sudokus.puzzles(grid, 50, 0, (10, 10))
    matching = torch.stack([grid[((grid == p) | (p == side)).all(1)][0] for p in puzzle])
    cells = sudokus.most_certain_first(puzzle, matching, 10)
    assert torch.equal(cells.sort(1).values, (puzzle == side).nonzero()[:, 1].view(50, 10))
    rows = task.as_pairs(puzzle, matching)
    assert torch.equal(task.of_pairs(puzzle, rows), matching)
    assert task.right(puzzle, matching) == [1.0] * 50
    rows[:, -2] = side + 2 + (puzzle != side).long().argmax(1)  # a cell that is given
    assert task.right(puzzle, task.of_pairs(puzzle, rows)) == [0.0] * 50
    other = matching.roll(1, 0)  # grids that keep the rules, and most of them not the puzzle
    breaks = ((other != puzzle) & (puzzle != side)).any(1)
    assert breaks.any()
    assert not (torch.tensor(task.right(puzzle, other)).bool() & breaks).any()


def test_grids_of_training_are_new_and_keep_the_rules(sudokus: ModuleType) -> None:
    large = sudokus.large_grids(6, seed=0)
    assert sudokus.solved(large).all()
    assert len(large.unique(dim=0)) == 6
    assert torch.equal(sudokus.large_grids(6, seed=0), large)
    many = sudokus.varied(large, 2000, torch.Generator().manual_seed(0))
    assert sudokus.solved(many).all()
    assert len(many.unique(dim=0)) == 2000
    # Every digit comes to every cell as often: 2,000 draws of a ninth each have a standard error of 0.007.
    share = (many[:, :, None] == torch.arange(9)).double().mean(0)
    assert (share - 1 / 9).abs().max() < 0.007 * 5
    assert not sudokus.solved(many.roll(1, 1)).any()
    # Of one small grid all kinds of changes together make every other of its class, and only grids.
    small = sudokus.varied(sudokus.grids()[:1], 20_000, torch.Generator().manual_seed(0))
    assert {tuple(row) for row in small.tolist()} <= {tuple(row) for row in sudokus.grids().tolist()}
    assert len(small.unique(dim=0)) in (96, 192)


def test_every_way_is_asked_and_told(
    orders: ModuleType, sudokus: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, small = sudokus.large_grids(4, seed=0), sudokus.Sudokus(9, 6, (4, 8), width=16, layers=1)
    monkeypatch.setattr(sudokus, "large_grids", lambda number, seed, side: few)
    monkeypatch.setitem(orders.STUDIES, "sudoku9", replace(orders.STUDIES["sudoku9"], run=small.run, claims=CLAIMS))
    for name, ways in (("sudoku", 6), ("sudoku9", 14), ("addition", 21)):
        table = orders.study(name, tmp_path, seeds=1, steps=2, asked=8)
        assert table.count("| 0 (") + table.count("| 12 (") == ways
        claims = orders.STUDIES[name].claims
        assert table.count("HOLD: ") + table.count("holds: ") == len(claims)
        written = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        checks = written["checks"]
        assert len(written["numbers"]) == ways
        assert all(f"| {way.removesuffix(', %')} |" in table for way in written["numbers"])
        assert [check["claim"] for check in checks] == [f"{better} beats {than}" for better, than in claims]


def test_claims_name_ways_of_writing_that_there_are(orders: ModuleType, sudokus: ModuleType) -> None:
    large = orders.STUDIES["sudoku9"]
    ways = {f"{name}, {blanks} blanks" for name in orders.ORDERS for blanks in sudokus.LARGE.further}
    assert {way for claim in large.claims for way in claim} <= ways | {*orders.ORDERS} | {*large.models}
    assert {*EXPERIMENTS["sudoku"].numbers} <= {f"{way}, %" for way in ways}


def test_models_can_be_left_out(orders: ModuleType, tmp_path: Path) -> None:
    table = orders.study("sudoku", tmp_path, seeds=1, steps=2, asked=8, only=["masks"])
    assert "margin beats top probability" in table
    assert "twin" not in table
    lines = (tmp_path / "sudoku-2-steps-8-asked.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["masks 0"]
