"""Whoever finds the fault, the error names the file."""

from pathlib import Path

import pytest

from llada.files.naming import naming, with_inputs


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("4 is too much"), "a/b.json: 4 is too much"),
        (ValueError("b.json: 4 is too much"), "b.json: 4 is too much"),
        (ValueError("/hidden/x1/part is torn"), "a/b.json: part is torn"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "a/b.json: 'utf-8' codec"),
    ],
)
def test_a_file_is_named_once(raised: ValueError, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as error, naming("a/b.json", hidden="/hidden/x1"):
        raise raised
    assert str(error.value).startswith(expected)


def test_other_errors_and_subclasses_pass_as_they_are() -> None:
    class Special(ValueError):
        pass

    for raised in (Special("4"), KeyError("4")):
        with pytest.raises(type(raised)) as error, naming("a.json"):
            raise raised
        assert error.value is raised


@pytest.mark.parametrize(
    ("text", "words", "added"),
    [
        ("width=1 isn't even", ["--config", "c.yaml"], " (read: c.yaml)"),
        ("width=1 isn't even", ["--config=c.yaml", "m"], " (read: c.yaml, m)"),
        ("m has no width", ["--config=c.yaml", "m"], ""),
        ("c.yaml: no width", ["--config=c.yaml", "m"], ""),
        ("--steps must be 1 or more", ["m", "--steps=0"], ""),
        ("trainer.max_steps must be a number; got 'x'", ["--config=c.yaml", "--trainer.max_steps=x"], ""),
        (
            "trainer.max_steps must be a number; got 'y'",
            ["--config=c.yaml", "--trainer.max_steps=2"],
            " (read: c.yaml)",
        ),
        ("trainer.max_steps must be a number; got 'y'", ["--trainer.max_steps=y"], ""),
        ("data must be a class", ["--config=c.yaml", "--trainer.max_steps=2"], " (read: c.yaml)"),
        ("there is no file gone.yaml", ["m", "--config=gone.yaml"], ""),
        ("the width is odd", ["--steps=0"], ""),
        ("the width is odd", ["c.yaml", "--out", "m"], " (read: c.yaml)"),
        ("the width is odd", ["c.yaml", "--output=m", "x" * 5000, "\0"], " (read: c.yaml)"),
    ],
)
def test_a_command_tells_what_it_has_read(
    text: str, words: list[str], added: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("")
    Path("m").mkdir()
    assert with_inputs(text, words) == text + added


def test_an_error_about_another_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("")
    Path("runs").mkdir()
    Path("runs/model.ckpt").touch()
    text = f"{tmp_path / 'runs/model.ckpt'} is the model of an earlier run"
    assert with_inputs(text, ["--config", "c.yaml"]) == text
