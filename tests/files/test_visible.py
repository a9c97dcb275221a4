"""What is shown at a terminal can't give it orders; files and pipes get the text as it is."""

import io
import json
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from llada.cli import chat, sample, score
from llada.cli.tokenizer import show
from llada.files.visible import visible
from llada.process import MaskingProcess
from llada.samplers import Canvas, PerStep, Sample, UnmaskingSampler
from llada.viewers import watch

ORDERS = {
    "title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "clipboard": ("\x1b]52;c;ZXZpbA==\x1b\\", r"\x1b]52;c;ZXZpbA==\x1b" + "\\"),
    "clear": ("\x1b[2J", r"\x1b[2J"),
    "eight bits": ("\x9b2J\x9d0;x\x9c\x90", r"\x9b2J\x9d0;x\x9c\x90"),
    "bell, backspace, delete": ("a\x07\x08\x7f", r"a\x07\x08\x7f"),
    "return": ("good\rbad", r"good\x0dbad"),
    "direction": ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
    "lines": ("a\u2028b\u0085c\x0b", r"a\u2028b\x85c\x0b"),
    "halves": ("a\ud800", r"a\ud800"),
    "tags": ("a\U000e0041", r"a\U000e0041"),
}
KEPT = ["", "plain", "two\n\tlines", "é ü 中文 עברית العربية", "👩\u200d👧 ❤\ufe0f", "░", "\\x1b"]
MASK = 3
EVIL = ["\x1b]0;owned\x07", "\x9b2J", "\u202e"]


@pytest.mark.parametrize(("text", "shown"), ORDERS.values(), ids=ORDERS)
def test_orders_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("text", KEPT)
def test_text_stays(text: str) -> None:
    assert visible(text) == text


def obeys(out: str) -> list[str]:
    """The orders that a terminal would find in an output, apart from colours and the cursor of a live view."""
    found = [order for order in (*EVIL, "\x07", "\x9b", "\x1b]") if order in out]
    assert not found or "owned" in out or "\x9b" in out or "\u202e" in out
    return found


class Words:
    """A tokenizer whose tokens are orders."""

    vocab_size, special_tokens, fingerprint = 4, {"\x1b[2J": 3}, "f" * 64

    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        return "".join(show_mask if i == MASK else EVIL[i] for i in ids)

    def encode(self, text: str) -> list[int]:
        return [0] * len(text)


class Model(SimpleNamespace):
    """As much of a `TextModel` as the viewers ask for."""

    tokenizer, stop_token_ids = Words(), frozenset[int]()
    decoding = SimpleNamespace(is_final=True)

    def to_write(self, made: Canvas) -> torch.Tensor:
        return ~made.given

    def decode(self, ids: list[int], show_mask: str = "") -> str:
        return self.tokenizer.decode(ids, show_mask)

    def stream(self, made: Canvas, steps: Any) -> Iterable[str]:
        yield from EVIL


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False, soft_wrap=True)


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


MADE = Canvas(torch.tensor([[0, MASK, MASK]]), torch.ones(1, 3).bool(), torch.tensor([[True, False, False]]))
DONE = Sample(torch.tensor([[0, 1, 2]]), torch.tensor([2]), torch.tensor([2]), MADE.given, MADE.attention_mask)


@pytest.mark.parametrize("terminal", [True, False])
def test_sample(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = console(terminal)
    monkeypatch.setattr(sample, "Console", lambda **_: screen)
    sample._print(Model(), DONE, 0, False)  # type: ignore[arg-type]
    assert bool(obeys(written(screen))) != terminal
    assert (r"\x1b]0;owned\x07" in written(screen)) == terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_json_lines_mean_the_same(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    sample._print(Model(), DONE, 0, True)  # type: ignore[arg-type]
    score._print_answers([score.Comparison("é", EVIL)], [[{"log_likelihood": 0.0}] * 3], True)
    first, *others = map(json.loads, out.getvalue().splitlines())
    assert first["text"] == "".join(EVIL)
    assert [other["answer"] for other in others] == EVIL
    assert out.getvalue().isascii() == terminal


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_chat(terminal: bool, stream: bool) -> None:
    screen = console(terminal)
    session = chat.ChatSession(Model(), 2, None, 0, screen, stream, pieces=True)  # type: ignore[arg-type]
    step = SimpleNamespace(tokens=torch.tensor([[0, 1, 2]]))
    answer = session._draw(MADE, iter([step])) if stream else session._print(MADE, iter([step]))  # type: ignore[list-item]
    assert set(answer) & set("\x1b\x9b\u202e")  # what is remembered is what was said
    if terminal or stream:
        assert not obeys(written(screen))
    else:
        assert obeys(written(screen))
    session._note("\x1b]0;owned\x07")
    assert written(screen).endswith("\\x07\n") or r"\x07" in written(screen)


def test_watch_and_the_picture() -> None:
    def model(tokens: torch.Tensor) -> torch.Tensor:
        return torch.eye(4)[torch.tensor([[0, 1, 2]])].expand(len(tokens), -1, -1) * 9.0

    text: Callable[[int], str] = EVIL.__getitem__
    steps = UnmaskingSampler(PerStep(1)).iterate(model, MADE.tokens, MaskingProcess(MASK))
    screen = console(True)
    watch(steps, MADE.given, text, console=screen)
    assert not obeys(written(screen))
    assert r"\x9b2J" in written(screen)
    assert r"\u202e" in written(screen)


def test_a_tokenizer_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("llada.cli.tokenizer.load_tokenizer", lambda _: Words())
    show("folder", "ab")
    assert "\x1b" not in capsys.readouterr().out
