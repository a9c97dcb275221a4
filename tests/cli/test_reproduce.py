"""``llada reproduce``: the list is the catalogue, a check shows what it measured, and what it needs is said first."""

import json
import sys
from pathlib import Path

import pytest

from llada.cli import reproduce as command
from llada.cli.reproduce import runs_here
from llada.evaluation import PROTOCOLS
from llada.published import CATALOGUE, Consent, Experiment, Finding, Outcome, Released, find_source, refusals, running
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
EXPERIMENTS = {name: entry for name, entry in CATALOGUE.items() if isinstance(entry, Experiment)}
GSM8K = "llada-8b-base/gsm8k"
POEMS = "poems forward, masked diffusion, %"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_has_gpu", lambda: False)


def source(folder: Path, holds: bool, writes: bool = True) -> Path:
    """A source whose reversal claim costs nothing."""
    package = folder / "examples" / "claims"
    package.mkdir(parents=True)
    for name in ("../__init__.py", "__init__.py", "report.py"):
        (package / name).touch()
    measured = {"mean": 0.5, "low": 0.3, "high": 0.7}
    check = {"claim": "more", "measured": measured, "rule": "its 95 % interval must lie above 0", "holds": holds}
    found = {"checks": [check, check | {"claim": "all", "holds": True}][: 2 - holds], "numbers": {POEMS: measured}}
    (package / "reversal.py").write_text(
        f"import json, pathlib, sys\nprint(*sys.argv[1:])\nfolder = pathlib.Path(sys.argv[-1])\n"
        f"if {writes}: (folder / 'reversal.json').write_text(json.dumps({found!r}))\n"
        f"sys.exit(0 if {holds} else 'not beyond its interval')\n"
    )
    return folder


def test_the_list_is_the_catalogue(llada: Command) -> None:
    run = llada("reproduce", "--jsonl")
    assert run.code == 0, run.err
    listed = [json.loads(line) for line in run.out.splitlines()]
    assert [entry["name"] for entry in listed] == list(CATALOGUE) == [*EXPERIMENTS, *PROTOCOLS]
    assert all(entry["paper"].startswith("arXiv") and entry["published"] and entry["quick"] for entry in listed)
    assert [entry["here"] for entry in listed] == [True] * len(EXPERIMENTS) + [False] * len(PROTOCOLS)
    needs = {entry["name"]: entry["needs"] for entry in listed}
    assert needs["few-data"] == ["source"]
    assert needs[GSM8K] == ["GPU", "download"]
    assert needs["llada-8b-base/mbpp"] == ["GPU", "download", "allow_code"]
    run = llada("reproduce")
    assert run.code == 0
    assert all(name in run.out for name in CATALOGUE)


def test_no_word_of_the_list_is_cut_at_eighty_columns(llada: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = llada("reproduce").out
    assert max(map(len, out.splitlines())) <= 80
    words = set(out.split())
    for entry in CATALOGUE.values():
        assert set(f"{entry.claim} {entry.published}".split()) <= words


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_program_and_a_page_of_this_repository(name: str) -> None:
    entry = EXPERIMENTS[name]
    place = entry.program[entry.program[0] == "-m"]
    program = place if place.endswith(".py") else place.replace(".", "/") + ".py"
    text = (ROOT / program).read_text(encoding="utf-8")
    assert (ROOT / entry.page).is_file()
    assert f'"{entry.file}' in text
    assert entry.option == "--folder" or f'"{entry.option}"' in text
    assert all(number.split(" (")[0] in entry.published for number in entry.numbers.values())


def test_what_agrees_in_nothing_is_not_reproduced() -> None:
    found = Finding("more", 0.1, 0.1, agrees=False, rule="above 0")
    assert Outcome([found], holds=False, seconds=1.0).verdict == "not reproduced"
    assert Outcome([], holds=False, seconds=1.0).verdict == "not reproduced"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_released_model_is_checked_by_its_protocol(name: str) -> None:
    entry, protocol = CATALOGUE[name], PROTOCOLS[name]
    assert isinstance(entry, Released)
    assert entry.published == f"{protocol.score} %"
    assert protocol.checkpoint in entry.claim
    assert protocol.task in entry.claim
    words = entry.words(name, Path("out"), quick=False, device="auto")
    assert words[:5] == ["-m", "llada", "evaluate", "--protocol", name]
    assert ("--allow_code" in words) == protocol.runs_code
    assert "--limit" not in words
    assert entry.words(name, Path("out"), quick=True, device="auto")[-4:-2] == ["--limit", "100"]


@pytest.mark.parametrize(("holds", "verdict"), [(True, "reproduced"), (False, "reproduced in part, 1 of 2")])
def test_a_check_shows_the_published_number_and_ours(llada: Command, tmp_path: Path, holds: bool, verdict: str) -> None:
    made = source(tmp_path / "source", holds)
    run = llada("reproduce", "reversal", "--source", made)
    assert run.code == (0 if holds else 1)
    lines = run.out.splitlines()
    assert lines.index("published  " + CATALOGUE["reversal"].published) > 0
    word = "agrees" if holds else "DOESN'T AGREE"
    assert f"  {word}: more: 0.5 +- 0.1 (its 95 % interval must lie above 0)" in lines
    assert f"  {POEMS}: 51.8 (LLaDA); here 0.5 +- 0.1" in lines
    assert f"verdict    reversal: {verdict}, in 0.0 min" in lines
    assert run.err == ("" if holds else "llada reproduce: reversal isn't reproduced: more\n")
    run = llada("reproduce", "reversal", "--source", made, "--full", "--jsonl", "--folder", "elsewhere")
    *findings, beside = [json.loads(line) for line in run.out.splitlines()]
    assert [finding["agrees"] for finding in findings] == ([True] if holds else [False, True])
    assert (beside["what"], beside["published"], beside["value"]) == (POEMS, "51.8 (LLaDA)", 0.5)
    assert (tmp_path / "elsewhere" / "reversal.json").is_file()


def test_a_check_that_leaves_no_results_is_no_verdict(llada: Command, tmp_path: Path) -> None:
    made = source(tmp_path / "source", holds=True, writes=False)
    old = tmp_path / "runs" / "reproduced" / "reversal.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"checks": []}')  # an earlier run's results aren't taken for this one's
    run = llada("reproduce", "reversal", "--source", made)
    assert run.code == 1
    assert "the run ended without" in run.err
    assert "verdict" not in run.out


def test_an_installed_package_says_where_the_experiments_are(
    llada: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "__file__", str(tmp_path / "site-packages" / "llada" / "published" / "running.py"))
    run = llada("reproduce", "few-data")
    assert run.code == 1
    assert "get the repository or the source distribution" in run.err
    assert not runs_here(CATALOGUE["few-data"])
    run = llada("reproduce", "few-data", "--source", tmp_path)
    assert f"{tmp_path} isn't the source of llada" in run.err
    assert find_source(ROOT) == ROOT


def test_what_a_check_needs_is_said_before_it_starts(llada: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.subprocess, "run", lambda *_, **__: pytest.fail("it was started"))
    run = llada("reproduce", GSM8K)
    assert run.code == 1
    assert f"command    llada evaluate --protocol {GSM8K} --dtype bfloat16 --limit 100" in run.out
    assert "needs a GPU" in run.err
    assert "--download" in run.err
    mbpp = CATALOGUE["llada-8b-base/mbpp"]
    assert len(refusals(mbpp, Consent(), lambda: False)) == 3
    assert not refusals(mbpp, Consent(download=True, allow_code=True, device="cpu"), lambda: False)
    assert not refusals(CATALOGUE[GSM8K], Consent(download=True), lambda: True)
    run = llada("reproduce", "few-dat")
    assert (run.code, run.err.partition("?")[0]) == (
        2,
        "llada reproduce: there is no claim 'few-dat'; did you mean few-data",
    )


def test_a_score_is_compared_within_its_standard_error(llada: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def evaluate(words: list[str], **_: object) -> None:
        started.append(words)
        scores = {"exact_match,strict-match": 0.66, "exact_match_stderr,strict-match": 0.05}
        scores |= {"exact_match,flexible": 0.5, "exact_match_stderr,flexible": 0.05}
        Path(words[-1]).write_text(json.dumps({"gsm8k": {"alias": "gsm8k", **scores}, "other": scores}))

    monkeypatch.setattr(running.subprocess, "run", evaluate)
    run = llada("reproduce", GSM8K, "--download", "--device", "cpu")
    assert started[0][:4] == [sys.executable, "-m", "llada", "evaluate"]
    assert "  agrees: gsm8k, exact_match (strict-match): 0.66 +- 0.05 (within 2 standard errors of 0.703)" in run.out
    assert "  DOESN'T AGREE: gsm8k, exact_match (flexible): 0.5 +- 0.05" in run.out
    assert (
        run.out.count("AGREE:") + run.out.count("agrees:") == 2
    )  # the other task of the group isn't the published one
    assert run.code == 0  # one of the metrics is the published one; the sources don't say which
    assert not CATALOGUE[GSM8K].holds([])
