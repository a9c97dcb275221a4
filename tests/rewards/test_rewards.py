"""Rewards: text in, numbers out, and no text of a model is ever run."""

import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest
import torch

from llada.rewards import (
    Between,
    Countdown,
    ExactMatch,
    Expression,
    Length,
    Number,
    OnWorkers,
    Reward,
    Sudoku,
    SudokuCells,
    Sum,
)
from llada.rewards.arithmetic import evaluate, last_number

GRID = "1234341221434321"
PUZZLE = "1030341001430020"
NUMBERS = {"numbers": [3, 4, 25], "target": 37}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-(2-5)", 3),
        ("2--3", 5),
        ("7/2", Fraction(7, 2)),
        ("1/3*3", 1),
        (" 3 × 4 ÷ 6 − 1 ", 1),
        ("0.1+0.2", Fraction(3, 10)),
        (".5*[4]", 2),
        ("8/4/2", 1),
        ("9-3-2", 4),
    ],
)
def test_an_expression_has_its_exact_value(text: str, value: Fraction) -> None:
    found = evaluate(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text",
    [
        "", "1+", "(1", "1)", "1 2", "()", "1//2", "2**9", "9**9**9", "1/0", "1/(2-2)", "__import__('os')", "a", "1e9",
        "٣", "1" * 31, "(" * 41 + "1" + ")" * 41, "+".join(["1"] * 300), "1;2", "0x10", "1_000", "1,5", "1..2", ".",
    ],
)  # fmt: skip
def test_other_text_has_none(text: str) -> None:
    assert evaluate(text) is None


def test_no_text_takes_long() -> None:
    """Products of as many long numbers as fit, and deep brackets, stay small."""
    assert evaluate("*".join(["9" * 30] * 12)) is not None
    assert evaluate("(" * 40 + "1" + ")" * 40) is not None
    assert evaluate("-" * 390 + "1") is not None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("So it is 42.", 42), ("-7", -7), ("1,234.5 pounds", Fraction("1234.5")), ("3 and 4", 4), ("none", None),
        ("x2", None), ("10-3", 3), ("#### 18\n", 18), ("9" * 40, None), ("1,2,3", 3),
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text: str, value: Fraction | None) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("reward", "answer", "row", "expected"),
    [
        (ExactMatch(), " Paris\n", {"answer": "Paris"}, 1.0),
        (ExactMatch(), "paris", {"answer": "Paris"}, 0.0),
        (ExactMatch(ignore_case=True), "paris", {"answer": "Paris"}, 1.0),
        (ExactMatch(extract=Between()), "so <answer> 7 </answer> or <answer>8</answer>.", {"answer": 8}, 1.0),
        (ExactMatch(extract=Between()), "</answer> 8 <answer>", {"answer": 8}, 0.0),
        (ExactMatch(extract=Between("####", "")), "2+2\n#### 4", {"answer": "4"}, 1.0),
        (Number(), "it is 18 of 20, so 1,000", {"answer": "work #### 1000"}, 1.0),
        (Number(tolerance=0.5), "2.4", {"answer": 2}, 1.0),
        (Number(), "2.4", {"answer": 2}, 0.0),
        (Number(), "many", {"answer": 2.5}, 0.0),
        (Expression(), "2*(3+4)", {"answer": 14}, 1.0),
        (Expression(well_formed=0.1), "2*3", {"answer": 14}, 0.1),
        (Expression(well_formed=0.1), "2*", {"answer": 14}, 0.0),
        (Countdown(), "25+3*4", NUMBERS, 1.0),
        (Countdown(), "3*4 + 25 = 37", NUMBERS, 1.0),
        (Countdown(), "25+3*4=36", NUMBERS, 0.0),
        (Countdown(), "37", NUMBERS, 0.0),
        (Countdown(well_formed=0.1), "25+3+4", NUMBERS, 0.1),
        (Countdown(well_formed=0.1), "25+3+3", NUMBERS, 0.0),
        (Countdown(use_all=False), "4+3", {"numbers": "3,4,25", "target": "7"}, 1.0),
        (Countdown(), "4+3", {"numbers": "3 4 25", "target": 7}, 0.0),
        (Sudoku(), GRID, {"puzzle": PUZZLE}, 1.0),
        (Sudoku(), "1234\n3412\n2143\n4321\n", {"puzzle": PUZZLE.replace("0", ".")}, 1.0),
        (Sudoku(), GRID.replace("1234", "2134", 1), {"puzzle": PUZZLE}, 0.0),
        (Sudoku(), "4321341221431234", {"puzzle": "0" * 16}, 0.0),  # columns and rows fit, boxes don't
        (Sudoku(), GRID[:-1], {"puzzle": PUZZLE}, 0.0),
        (Sudoku(), GRID + "1", {"puzzle": PUZZLE}, 0.0),
        (SudokuCells(), GRID, {"puzzle": PUZZLE, "solution": GRID}, 1.0),
        (SudokuCells(), "1" * 16, {"puzzle": "0" * 16, "solution": GRID}, 0.25),
        (SudokuCells(), "", {"puzzle": PUZZLE, "solution": GRID}, 0.0),
        (Length(2, 4), "abc", {}, 1.0),
        (Length(2, 4, slack=2), "abcde", {}, 0.5),
        (Length(2, 4), "abcde", {}, 0.0),
        (Length(2, slack=4), "", {}, 0.5),
    ],
)
def test_rewards(reward: Reward, answer: str, row: dict[str, object], expected: float) -> None:
    assert reward.score("", answer, row) == expected
    assert reward([""], [answer], [row]).tolist() == [expected]


def test_a_grid_of_nine() -> None:
    rows = ["123456789"[k:] + "123456789"[:k] for k in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    assert Sudoku().score("", "\n".join(rows), {"puzzle": "0" * 81}) == 1.0
    assert Sudoku().score("", "\n".join(reversed(rows)), {"puzzle": "1" + "0" * 80}) == 0.0


@pytest.mark.parametrize("text", ["", "\0", "<answer>", "9" * 10**5, "(" * 10**5, "1+" * 10**5, "é" * 50, "\ud800"])
def test_no_answer_ends_a_run(text: str) -> None:
    row = {"answer": 7, "puzzle": PUZZLE, "solution": GRID, **NUMBERS}
    rewards = (
        ExactMatch(),
        Number(),
        Expression(),
        Countdown(),
        Sudoku(),
        SudokuCells(),
        ExactMatch(extract=Between()),
    )
    assert all(reward.score("", text, row) == 0.0 for reward in rewards)


@pytest.mark.parametrize(
    ("reward", "row", "message"),
    [
        (ExactMatch(), {"solution": 1}, "needs the field 'answer'; the record has solution"),
        (Number(), {"answer": "none"}, "'answer' must be a number, or a text with one; got 'none'"),
        (Number(), {"answer": math.nan}, "must be a number"),
        (Countdown(), {"numbers": 3, "target": 1}, "'numbers' must be a list of numbers"),
        (Sudoku(), {"puzzle": "12"}, "'puzzle' must be a text of 16 or 81 digits"),
        (Sudoku(), {"puzzle": "5" * 16}, "'puzzle' must be a text of 16 or 81 digits"),
    ],
)
def test_a_record_that_lacks_something_is_refused(reward: Reward, row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward.score("", "1", row)


def test_sums() -> None:
    reward = Sum({"right": Number(), "short": Length(most=3)}, {"short": 0.5})
    prompts, answers, rows = ["", ""], ["1", "no: 2"], [{"answer": 1}, {"answer": 2}]
    assert reward(prompts, answers, rows).tolist() == [1.5, 1.0]
    assert reward.score("", "1", rows[0]) == 1.5
    assert {name: value.tolist() for name, value in reward.parts(prompts, answers, rows).items()} == {
        "right": [1.0, 1.0],
        "short": [1.0, 0.0],
    }
    with pytest.raises(ValueError, match="no reward is named long; got rewards right"):
        Sum({"right": Number()}, {"long": 1.0})


class Slow(Reward):
    """Takes its time."""

    def score(self, prompt: str, answer: str, row: object) -> float:
        time.sleep(0.2)
        return 1.0


def agrees(reward: OnWorkers) -> None:
    """The numbers are those of the inner reward."""
    answers, rows = ["1", "12345", "3"], [{"answer": 1}, {"answer": 2}, {"answer": 3}]
    inner = reward.reward([""] * 3, answers, rows)
    torch.testing.assert_close(reward([""] * 3, answers, rows), inner, rtol=0.0, atol=0.0)


def test_workers_give_the_same_numbers_and_are_given_up() -> None:
    inner = Sum({"right": Number(), "short": Length(most=3)})
    reward = OnWorkers(inner, num_workers=2)
    object.__setattr__(reward, "_pool", ThreadPoolExecutor(1))  # processes take seconds to start
    agrees(reward)
    assert pickle.loads(pickle.dumps(reward)) == reward  # without its workers
    reward.close()
    slow = OnWorkers(Slow(), num_workers=1, timeout=0.01)
    object.__setattr__(slow, "_pool", ThreadPoolExecutor(1))
    with pytest.raises(TimeoutError, match=r"Slow took longer than 0\.01 seconds for 1 answers"):
        slow([""], [""], [{}])
    assert slow._pool is None
    for number in (0, 2**40):
        with pytest.raises(ValueError, match="num_workers must be from 1 to 1024"):
            OnWorkers(inner, num_workers=number)


@pytest.mark.slow
def test_workers_are_processes() -> None:
    reward = OnWorkers(Sum({"right": Number(), "short": Length(most=3)}), num_workers=2)
    agrees(reward)
    reward.close()


class Odd(Reward):
    """Gives back what a record says, or raises it; counts how often it is asked."""

    asked = 0

    def score(self, prompt: str, answer: str, row: Any) -> Any:
        Odd.asked += 1
        if isinstance(row["gives"], Exception):
            raise row["gives"]
        return row["gives"]


@pytest.mark.parametrize("gives", [math.nan, -math.inf, None, "much", torch.zeros(2)], ids=str)
def test_a_reward_is_a_finite_number(gives: Any) -> None:
    with pytest.raises(ValueError, match=r"Odd.score must give a finite number; got .* for the answer 'two' to 'one'"):
        Sum({"odd": Odd()})(["one"], ["two"], [{"gives": gives}])


def test_what_a_reward_raises_says_where() -> None:
    with pytest.raises(KeyError) as raised:
        Odd()(["one"], ["x" * 1000], [{"gives": KeyError("no such")}])
    assert raised.value.__notes__ == [f"in Odd.score, for the answer {'x' * 200!r}... (1000 characters) to 'one'"]


def test_equal_answers_are_judged_once() -> None:
    Odd.asked, one, other = 0, {"gives": 1}, {"gives": True}
    rewards = Odd()(["p", "p", "p", "p"], ["a", "b", "a", "a"], [one, one, one, other])
    assert rewards.tolist() == [1.0] * 4
    assert Odd.asked == 3
