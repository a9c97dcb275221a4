"""The planning example: questions that have one answer, and numbers that say what they should."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from llada.published.catalogue import EXPERIMENTS

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("planning")


def test_every_question_has_exactly_its_way(planning: ModuleType) -> None:
    stars = planning.Stars(arms=3, length=4, nodes=15)
    questions, ways = stars.draw(50, seed=0)
    assert questions.shape == (50, 26)
    first = []
    for question, way in zip(questions.tolist(), ways.tolist(), strict=True):
        *listed, start, goal = question
        edges = list(zip(listed[::2], listed[1::2], strict=True))
        assert len({end for _, end in edges}) == 12  # one way to each node
        assert way[-1] == goal
        assert all(step in edges for step in zip([start, *way], way, strict=False))
        assert [end for begin, end in edges if begin == start].count(way[0]) == 1
        first.append([end for begin, end in edges if begin == start].index(way[0]))
    assert set(first) == {0, 1, 2}  # which arm is listed first says nothing
    assert torch.equal(stars.draw(50, seed=0)[0], questions)
    assert not torch.equal(stars.draw(50, seed=1)[0], questions)


def test_all_ways_of_decoding_are_measured(planning: ModuleType) -> None:
    plan = planning.Plan(planning.Stars(2, 2, 6), planning.Training(3, 4, 1e-3), (0, 1), questions=20)
    lines = planning.measure(plan)
    calls = {line.name: line.calls for line in lines}
    assert {"confidence, 2", "confidence, 1", "margin, 2", "random order, 2", "KLASS", "left to right"} <= calls.keys()
    assert (calls["confidence, 2"], calls["confidence, 1"], calls[planning.OWN]) == (2.0, 1.0, 2.0)
    assert all([len(run) for run in line.correct] == [20, 20] for line in lines)
    assert line(planning, "any", (0.5, 0.5)).calls == 1.5
    assert planning.markdown(lines).count("\n") == len(lines) + 1
    scored = {line.name for line in lines if [len(run) for run in line.nats] == [20, 20]}
    assert {"margin, 2", "margin, 1", "random order, 2", "left to right", planning.OWN} <= scored
    assert not any(line.nats for line in lines if line.name.startswith(("confidence", "threshold", "KLASS")))
    by_name = {line.name: line for line in lines}
    once = [by_name[name].nats for name in ("margin, 1", "random order, 1")]
    assert np.allclose(*once)  # all tokens of one look have no order
    assert by_name["left to right"].nats[0].mean() != pytest.approx(once[0][0].mean())


def line(planning: ModuleType, name: str, shares: tuple[float, float]):
    runs = [(np.arange(100) < 100 * share).astype(float) for share in shares]
    return planning.Line("any", name, [1.0, 2.0], runs, [])


def test_the_published_number_is_that_of_the_twin(planning: ModuleType) -> None:
    twin = planning.Line(planning.NEXT_TOKEN, planning.OWN, [3.0], [np.array([1.0, 0.0, 0.0, 0.0])], [])
    found = planning.numbers([twin])
    assert list(found) == list(EXPERIMENTS["planning"].numbers)
    assert [number.mean for number in found.values()] == [25.0]


def test_a_claim_must_hold_beyond_its_interval_and_for_every_seed(planning: ModuleType) -> None:
    plan = planning.Plan(planning.Stars(2, 2, 6), planning.Training(1), (0, 1))

    def held(best: tuple[float, float], other: tuple[float, float]) -> list[bool]:
        names = ["random order, 2", planning.LEFT, planning.OWN]
        lines = [line(planning, "confidence, 2", best), *(line(planning, name, other) for name in names)]
        return [check.holds for check in planning.claims(lines, plan)]

    assert held((0.9, 0.8), (0.3, 0.4)) == [True] * 3
    assert held((0.9, 0.35), (0.3, 0.4)) == [False] * 3
    assert held((0.4, 0.4), (0.4, 0.4)) == [False] * 3
