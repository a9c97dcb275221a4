"""The kit of the claims: intervals that cover, twins that differ in what they must, reports that fail."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

pytest.importorskip("matplotlib")

from examples.claims.report import Report, bars, command_line, lines
from examples.claims.statistics import Interval, difference_over_seeds, mean_over_seeds, wilson
from examples.claims.twins import (
    DIFFUSION,
    NEXT_TOKEN,
    TWINS,
    Recipe,
    Rows,
    Training,
    fit,
    log_likelihood,
    write,
)

RECIPE = Recipe(vocab_size=7, mask_token_id=6, width=16, num_layers=1, num_heads=2)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (90, 100)])
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    wanted = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials)[1:3] == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_wilson_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson(3, 2)


def test_bootstrap_has_the_spread_of_the_mean() -> None:
    random = np.random.default_rng(0)
    # 60 seeds of 5 items: seeds spread by 1 and items by 1, so the mean's variance is (1 + 1 / 5) / 60. The bootstrap
    # adds the items' share once more, as it resamples them within seeds that already vary with them.
    runs = random.normal(size=(60, 1)) + random.normal(size=(60, 5))
    interval = mean_over_seeds(list(runs), draws=1000)
    deviation = (interval.high - interval.low) / (2 * 1.96)
    assert interval.mean == pytest.approx(runs.mean())
    assert 0.8 * (1.2 / 60) ** 0.5 < deviation < 1.2 * (1.4 / 60) ** 0.5


def test_differences_are_paired() -> None:
    random = np.random.default_rng(0)
    base = [random.normal(size=50) * 100 for _ in range(3)]
    interval = difference_over_seeds([run + 1 for run in base], base)
    assert interval[:3] == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="pair up"):
        difference_over_seeds(base, base[:2])


def test_all_right_leaves_room_for_doubt() -> None:
    assert mean_over_seeds([[1.0] * 10, [1.0] * 10]).low == pytest.approx(wilson(20, 20).low)


def test_a_direction_needs_the_interval_and_every_seed() -> None:
    assert Interval(0.5, 0.1, 0.9, 0.2).above(0.0)
    assert not Interval(0.5, -0.1, 0.9, 0.2).above(0.0)
    assert not Interval(0.5, 0.1, 0.9, -0.2).above(0.0)


def test_nothing_has_no_sign() -> None:
    assert Interval(-0.001, -0.02, 0.001, -0.02).percent() == "0 (-2 to 0)"


def test_twins_share_everything_but_sight_and_loss() -> None:
    first, second = (make(RECIPE, 3) for make in TWINS.values())
    for (name, ours), (_, theirs) in zip(
        first.backbone.named_parameters(), second.backbone.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]])
    heads = [model.eval()(tokens)[:, :3] for model in (first, second)]
    assert not torch.equal(heads[0][0], heads[0][1])  # the last token is seen
    torch.testing.assert_close(heads[1][0], heads[1][1])  # and isn't


def test_both_twins_get_the_same_batches() -> None:
    rows = Rows(torch.arange(10)[:, None])
    training = Training(steps=6, batch_size=4)
    first, second = ([batch["tokens"] for batch in rows.batches(training, 5)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sorted(torch.cat(first)[:10, 0].tolist()) == list(range(10))  # an epoch has every row once


@pytest.mark.parametrize("name", TWINS)
def test_training_writing_and_likelihood_agree(name: str) -> None:
    # "0 1 2 3" and "0 4 5 3" are all there is: the second token tells the third.
    rows = Rows(torch.tensor([[0, 1, 2, 3], [0, 4, 5, 3]]))
    model = fit(TWINS[name](RECIPE, 0), rows, Training(steps=80, batch_size=16, rate=2e-2), 0)
    asked = rows.tokens.masked_fill(torch.arange(4) >= 2, 0)  # what stands there isn't looked at
    assert write(model, asked, torch.arange(4) >= 2).tolist() == [[2, 3], [5, 3]]
    assert write(model, rows.tokens, torch.arange(4) == 2).tolist() == [[2], [5]]
    swapped = torch.tensor([[0, 1, 2, 3], [0, 1, 5, 3]])
    answer = (torch.arange(4) >= 2).expand(2, 4)
    right, wrong = log_likelihood(model, swapped, answer).tolist()
    assert right > wrong + 1.0
    assert right <= 0.0


def test_likelihood_is_a_distribution_over_answers() -> None:
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    tokens = torch.cat([torch.tensor([[0, 3]]).expand(49, 2), pairs], dim=1)
    answer = (torch.arange(4) >= 2).expand(49, 4)
    for make in TWINS.values():
        total = log_likelihood(make(RECIPE, 1), tokens, answer, batch_size=20).exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_a_report_writes_its_files_and_fails_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("claim", [0, 1], quick=True)
    report.table("Shares", ["model", "percent"], [[DIFFUSION, 90], [NEXT_TOKEN, 10]])
    interval = Interval(0.5, 0.4, 0.6, 0.45)
    report.check("more than nothing", interval)
    report.equal("as much as was published", interval, to=0.7, expected=False)
    report.number("share, %", interval.times(100))
    left, right = report.picture(columns=2)
    bars(left, ["a"], {DIFFUSION: [interval], NEXT_TOKEN: [interval]})
    lines(right, [1.0], {DIFFUSION: [interval]})
    report.finish(tmp_path)
    written = json.loads((tmp_path / "claim.json").read_text())
    assert written["tables"]["Shares"][0] == {"model": DIFFUSION, "percent": "90"}
    assert written["command"] == "python -m examples.claims.claim --quick"
    assert [(check["claim"], check["holds"]) for check in written["checks"]] == [
        ("more than nothing", True),
        ("as much as was published", False),
    ]
    assert written["checks"][1]["rule"] == "its 95 % interval must hold 0.7"
    assert written["numbers"] == {"share, %": {"mean": 50.0, "low": 40.0, "high": 60.0, "worst": 45.0}}
    assert "| next token | 10 |" in (tmp_path / "claim.md").read_text()
    assert (tmp_path / "claim.png").stat().st_size > 1000
    report.check("more than half", interval, above=0.5)
    with pytest.raises(SystemExit, match="more than half"):
        report.finish(tmp_path)
    assert "DOES NOT HOLD" in capsys.readouterr().out


def test_a_report_says_the_options_that_change_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--folder", "somewhere", "--jobs", "2", "--tokens", "30", "--tokens", "5", "--without", "next token"]
    monkeypatch.setattr(sys, "argv", ["claim", *words])
    options = command_line("A claim.", tokens=True, choices={"search": ["whole"], "without": ["next token"]}, jobs=True)
    told = Report("claim", options.seeds, options.quick, options.chosen).environment()["command"]
    assert told == "python -m examples.claims.claim --tokens 30 --tokens 5 --without 'next token'"
