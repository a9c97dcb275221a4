"""Each claim runs from end to end, and fails by name when its models have learnt nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from examples.claims import in_context, instructions, question_masks, reversal, reversal_causes
from examples.claims.facts import ANSWER, Facts
from examples.claims.reversal import Scale
from examples.claims.twins import DIFFUSION, TWINS, Recipe, Training
from llada.published.catalogue import EXPERIMENTS

SHORT = Training(steps=2, batch_size=8)


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for claim in (in_context, instructions, reversal):
        monkeypatch.setattr(claim, "Recipe", lambda *sizes, **o: Recipe(*sizes, **{**o, "width": 16, "num_layers": 1}))


def run(main: Callable[[list[int], Path, bool], None], folder: Path) -> dict[str, object]:
    torch.set_num_threads(1)
    with pytest.raises(SystemExit, match="not beyond its interval"):
        main([0], folder, True)
    (path,) = folder.glob("*.json")
    assert path.with_suffix(".png").is_file()
    return json.loads(path.read_text())


def test_reversal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reversal, "QUICK", Scale(facts=2, poems=2, questions=2))
    results = run(reversal.main, tmp_path)
    facts, poems = results["tables"]["Facts"], results["tables"]["Poems"]
    assert [(row["read"], row["asked"]) for row in facts] == 2 * [
        (a, b) for a in reversal.DIRECTIONS for b in reversal.DIRECTIONS
    ]
    assert {row["written"].split()[0] for row in poems} == {"0"}
    assert len(results["checks"]) == 5
    assert set(results["numbers"]) >= set(EXPERIMENTS["reversal"].numbers)


def test_reversal_causes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reversal_causes, "FULL", Scale(facts=4, poems=0, questions=0))
    asked = []

    def learn(make: object, world: Facts, steps: int, tied: bool = True) -> str:
        asked.append((world.both, steps, tied))
        return "diffusion" if make is TWINS[DIFFUSION] else "twin"

    def ask(model: str, world: Facts, seen: str, other: str) -> tuple[torch.Tensor, ...]:
        if model == "twin":
            assert seen != other
        number = 20 if seen == reversal.DIRECTIONS[0] else 10
        return torch.zeros(20), torch.arange(20) < number, torch.zeros(20)

    def write(model: str, rows: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        """Right with END, and for the facts that were read name first without."""
        assert model == "diffusion"
        known = [Facts().questions(reversal.DIRECTIONS[0], other)[:, : rows.shape[1]] for other in reversal.DIRECTIONS]
        name_first = any(torch.equal(rows, each) for each in known)
        right = rows[:, answer]
        return right if name_first or rows.shape[1] == len(ANSWER) else right + 1

    monkeypatch.setattr(reversal_causes, "write", write)
    monkeypatch.setattr(reversal_causes, "learn_facts", learn)
    monkeypatch.setattr(reversal_causes, "ask_facts", ask)
    results = run(reversal_causes.main, tmp_path)
    assert asked == [(80, 2, True), (80, 2, False), (0, 2, True), (0, 2, False), (80, 2, True)]
    twin, diffusion = results["tables"].values()
    assert [row["ranked first"].split()[0] for row in twin] == ["75"] * 4  # of both groups
    assert [row["asked"] for row in diffusion] == ["as they were read", "in reverse"]
    for row in diffusion:  # both groups of 20, of which one is written without END
        assert (row["in rows with their end"].split()[0], row["in rows without"].split()[0]) == ("100", "50")


def test_in_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans = {name: replace(plan, quick=SHORT, questions=8) for name, plan in in_context.PLANS.items()}
    monkeypatch.setattr(in_context, "PLANS", plans)
    results = run(in_context.main, tmp_path)
    assert len(results["tables"]) == 2
    assert [row["model"] for row in next(iter(results["tables"].values()))] == [*TWINS, "optimum"]


def test_question_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = replace(in_context.PLANS["functions"], questions=8)
    monkeypatch.setattr(question_masks, "PLANS", {"functions": plan})
    monkeypatch.setattr(question_masks, "QUICK", SHORT)
    shares, differences = run(question_masks.main, tmp_path)["tables"].values()
    assert [row["rows"] for row in shares] == list(question_masks.ARMS)
    assert len(differences) == 2
    monkeypatch.setattr(question_masks, "right", None)  # all runs are kept
    assert run(question_masks.main, tmp_path)["tables"]["Differences of right answers"] == differences


def test_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(instructions, "QUICK", instructions.Scale(SHORT, SHORT, questions=8))
    results = run(instructions.main, tmp_path)
    assert {row["model"] for row in results["tables"]["Questions on new arguments"]} == set(TWINS)
    assert [check["claim"].split(":")[0] for check in results["checks"]][:2] == [DIFFUSION, DIFFUSION]
