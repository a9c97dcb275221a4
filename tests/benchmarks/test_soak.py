"""The short form of the soak test; the long one is `make soak`."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import soak, soak_all, soak_inputs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork")
def test_a_killed_run_ends_as_if_nobody_had_killed_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--runs", "1", "--kills", "2", "--settings", "window"]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 runs ended as if nobody had killed them\n")


def test_differences_are_seen() -> None:
    first = [{"a": [1, soak.torch.zeros(2)]}]
    assert soak.same(first, [{"a": [1, soak.torch.zeros(2)]}])
    for other in ([{"a": [1, soak.torch.ones(2)]}], [{"a": [1]}], [{"b": [1, soak.torch.zeros(2)]}], [], [{"a": 1}]):
        assert not soak.same(first, other)


def test_every_figure_comes_from_one_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged inputs of the first kinds and a composition; the other parts are tests of this suite."""
    kinds = 6
    short = ["--parts", "inputs,compositions", "--inputs", str(kinds), "--compositions", "1"]
    assert soak_all.main(short) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith(f"inputs: {kinds} of {kinds} inputs, of which ")
    assert second == "compositions: 1 of 1 compositions in float64"
    assert all((soak_all.ROOT / name).is_file() for name in (*soak_all.TEMPLATES, *soak_all.CASES))
    monkeypatch.setattr(soak_all, "fuzz", lambda numbers, seed: Counter(unclear=1, clear=len(numbers) - 1))
    assert soak_all.main(["--parts", "inputs", "--inputs", "3"]) == 1
    assert capsys.readouterr().out == "inputs: 2 of 3 inputs, of which 0 gave a result\n"


def test_what_is_no_clear_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/a.txt").write_text("a", encoding="utf-8")
    kind = soak_inputs.Kind("a.txt", lambda content: content, ("sample",))
    answers = {
        "result": (0, ""), "clear": (1, "llada sample: a.txt is empty"), "unclear": (1, "llada sample: empty"),
    }  # fmt: skip
    for expected, answer in [*answers.items(), ("unclear", (70, "a.txt")), ("unclear", (1, "Traceback a.txt"))]:
        monkeypatch.setattr(soak_inputs, "outcome", lambda _, answer=answer: answer)
        assert soak_inputs.try_one(tmp_path / "whole", tmp_path / "one", kind)[0] == expected
    monkeypatch.undo()
    monkeypatch.setattr(soak_inputs, "llada", lambda _: signal.raise_signal(signal.SIGALRM))
    assert soak_inputs.outcome(["sample"])[0] == -1
