"""Until accuracy stops rising: fresh rows for ever, equal searches, kept curves; and pictures of the results."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from examples.claims import converged, goals, pictures
from examples.claims.converged import Learning, Learnt, Plan
from examples.claims.goals import BATCH, GOALS
from examples.claims.long_forms import told
from examples.claims.pictures import PICTURES, interval, markdown_table, tables_of
from examples.claims.statistics import Interval
from examples.claims.twins import DIFFUSION, TWINS
from examples.claims.until import IMPROVED, Patience

DOCS = Path(__file__).parents[2] / "docs"
STEPS = 2


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "STEPS_PER_EPOCH", STEPS)


@pytest.mark.parametrize("name", GOALS)
def test_every_epoch_has_fresh_rows_and_the_same_when_asked_again(name: str) -> None:
    for stage in {id(stage): stage for arm in GOALS[name]().arms.values() for stage in arm.stages}.values():
        batches = stage.batches(3)
        first, second, again = batches(0), batches(1), batches(0)
        assert [len(batch["tokens"]) for batch in first] == [BATCH] * STEPS
        assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in a)
        assert not torch.equal(first[0]["tokens"], second[0]["tokens"])
        assert not torch.equal(first[0]["tokens"], stage.batches(4)(0)[0]["tokens"])


def test_masks_as_asked_are_in_the_last_output_alone_and_the_rows_are_the_same() -> None:
    arms = GOALS["functions"]().arms
    assert list(arms) == [*TWINS, goals.AS_ASKED]
    plain, asked = (arms[name].stages[0].batches(3)(0)[0] for name in (DIFFUSION, goals.AS_ASKED))
    assert torch.equal(plain["tokens"], asked["tokens"])
    assert asked["maskable"].sum(1).unique().tolist() == [3]
    assert not (asked["maskable"] & ~plain["maskable"]).any()
    after = asked["maskable"].int().cummax(1).values.bool() & ~asked["maskable"]
    assert not (plain["maskable"] & after).any()


def test_a_training_goes_through_its_stages_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goal = GOALS["instructions"]()
    small = replace(goal, recipe=replace(goal.recipe, width=16, num_layers=1))
    monkeypatch.setitem(converged.GOALS, "instructions", lambda: small)
    plan = Plan((1e-3,), Patience(factor=1.1, spacing=1.1, least=STEPS, most=STEPS), STEPS, 10, 10)
    learning = Learning("instructions", plan, tmp_path)
    found = learning.run("next token", 1e-3, 0)
    parts = ["as text, rate 0.001", "as text, rate 0.0001", "instructions, rate 0.001", "instructions, rate 0.0001"]
    assert list(found.curves) == list(found.ended) == parts
    assert found.steps == 4 * STEPS
    assert len(found.right) == 10
    again = Learning("instructions", plan, tmp_path)
    again._learn = pytest.fail  # type: ignore[assignment]
    assert again.run("next token", 1e-3, 0).right == found.right


def test_the_command_searches_both_alike_and_says_who_is_at_the_goal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Known(Learning):
        def run(self, model: str, rate: float, seed: int) -> Learnt:
            asked.append((model, rate, seed))
            share = 0.97 if model == "next token" else 0.5
            right = [1.0] * round(400 * share) + [0.0] * round(400 * (1 - share))
            curve = {"a": [(10, share / 2 + rate), (20, 0.2)], "b": [(10, share)]}  # "b" ends alike at both rates
            return Learnt(right, 30, 1.0, curve, dict.fromkeys(curve, IMPROVED))  # type: ignore[arg-type]

    monkeypatch.setattr(converged, "Learning", Known)
    monkeypatch.setattr(sys, "argv", ["converged", "--goal", "instructions", "--folder", str(tmp_path), "--seeds", "2"])
    with pytest.raises(SystemExit, match=r"instructions, masked diffusion: right answers are at the goal$"):
        converged.main()
    searched = [(model, rate, converged.SEARCH_SEED) for model in TWINS for rate in (1e-3, 3e-3)]
    assert asked == searched + [(model, 3e-3, seed) for model in TWINS for seed in (0, 1)]
    written = json.loads((tmp_path / "converged_instructions.json").read_text())
    assert [check["holds"] for check in written["checks"]] == [False, True]
    asked.clear()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--without", "next token", "--rate", "0.001"])
    with pytest.raises(SystemExit, match="masked diffusion"):
        converged.main()
    assert asked == [(DIFFUSION, 1e-3, seed) for seed in (0, 1)]


def test_a_picture_says_what_its_results_say(tmp_path: Path) -> None:
    assert interval("**98 (91 to 100)**") == Interval(98, 91, 100, 91)
    with pytest.raises(ValueError, match="'98' isn't a number with its interval"):
        interval("98")
    page = "text\n\n| model | right |\n|---|---|\n| a | 3 (1 to 4) |\n\nmore"
    assert markdown_table(page, "model") == [{"model": "a", "right": "3 (1 to 4)"}]
    for claim, picture in PICTURES.items():
        tables = tables_of(DOCS, claim)
        assert tables is not None, claim
        title, _, bars = picture(tables)
        assert (DOCS / "images" / f"claim-{claim}.png").is_file()
        numbers = {f"{value.mean:.0f}" for found in bars.values() for value in found.values()}
        if claim in ("reversal", "in-context", "instructions", "planning", "sudoku"):
            assert sum(number in title for number in numbers) >= 2
        assert all(value.low <= value.mean <= value.high for found in bars.values() for value in found.values())
    rows = {
        "next token, not tuned": 4.7,
        "masked diffusion, not tuned": 4.1,
        "next token": 3.9,
        "masked diffusion": 4.0,
    }
    rows["masked diffusion, exact, margin"] = 3.8
    table = [{"unique tokens": "10,000", "model": name, "nats per token": f"{x} (3 to 5)"} for name, x in rows.items()]
    title, _, bars = PICTURES["few-data"]({"Held-out text": table})
    assert "ends at 4.00 nats,\nabove its regularised twin at 3.90" in title
    assert [list(found) for found in bars.values()] == [["next token", "masked diffusion"]] * 2
    title, label, bars = PICTURES["reversal"](tables_of(DOCS, "reversal") or {})
    pictures.draw(title, label, bars, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 1000


def test_the_long_forms_are_told_from_their_results() -> None:
    lines = list(told())
    assert any(line.startswith("python -m examples.claims.reversal on ") for line in lines)
    assert any(line.startswith("  DOES NOT HOLD: functions, masked diffusion") for line in lines)
