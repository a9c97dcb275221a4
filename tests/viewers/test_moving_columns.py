"""A canvas whose columns come and go, as text that is given out, as pictures and at the terminal."""

import io
import json
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import torch
from rich.console import Console
from torch import Tensor

from llada.process import Edit
from llada.samplers import Step, finish
from llada.text import stream_text
from llada.viewers import denoising_page, denoising_picture, frames_of, picture, watch

MASK, STOP, PAD = 9, 8, 7
WORDS = ["a ", "b ", "c ", "d ", "e ", "f ", "g ", "<pad>", "", "?"]
TOKENS = torch.tensor([[7, 0, MASK, MASK], [0, 1, MASK, MASK]])
GIVEN = TOKENS != MASK
REAL = torch.tensor([[False, True, True, True], [True] * 4])


def step(tokens: list[list[int]], changed: list[list[int]], edit: Edit | None = None, calls: int = 1) -> Step:
    canvas = torch.tensor(tokens)
    return Step(
        canvas,
        torch.tensor(changed).bool(),
        torch.where(torch.tensor(changed).bool() & (canvas != MASK), 0.5, torch.nan),
        torch.tensor([calls, calls]),
        canvas == MASK,
        edit=edit,
    )


def film() -> list[Step]:
    """The first row gets two masks at its end and loses its second token; the second loses one mask, and is padded."""
    insert, delete = torch.zeros(2, 5).long(), torch.zeros(2, 4).bool()
    insert[0, 4], delete[1, 3] = 2, True
    grown = Edit.of(REAL, delete, insert)
    drop = torch.zeros(2, 6).bool()
    drop[0, 2] = True
    shrunk = Edit.of(grown.real, drop)
    return [
        step([[7, 0, MASK, 2], [0, 1, 2, MASK]], [[0, 0, 0, 1], [0, 0, 1, 0]]),
        step([[7, 0, MASK, 2, MASK, MASK], [0, 1, 2, PAD, PAD, PAD]], [[0, 0, 0, 0, 1, 1], [0] * 6], grown),
        step([[7, 0, 1, 2, 4, 3], [0, 1, 2, PAD, PAD, PAD]], [[0, 0, 1, 0, 1, 1], [0] * 6], calls=2),
        step([[7, 0, 2, 4, 3], [0, 1, 2, PAD, PAD]], [[0] * 5, [0] * 5], shrunk, calls=2),
    ]


def test_frames_say_where_tokens_came_from() -> None:
    frames = frames_of(film(), TOKENS, GIVEN)
    assert [frame.ids for frame in frames] == [
        [7, 0, None, None],
        [7, 0, None, 2],
        [7, 0, None, 2, None, None],
        [7, 0, 1, 2, 4, 3],
        [7, 0, 2, 4, 3],
    ]
    assert [frame.source for frame in frames] == [None, None, [0, 1, 2, 3, -1, -1], None, [0, 1, 3, 4, 5]]
    assert frames[-1].given == [True, True, False, False, False]
    second = frames_of(film(), TOKENS, GIVEN, row=1)
    assert [len(frame.ids) for frame in second] == [4, 4, 3, 3, 3]  # without the padding behind


def test_the_page_and_the_picture_show_all_that_was_there() -> None:
    page = denoising_page(film(), TOKENS, GIVEN, WORDS.__getitem__)
    found = re.search(r"const SHARED = (.*);", page)
    assert found
    (pane,) = json.loads(found[1])["panes"]
    canvas, lengths = list(pane["first"]["canvas"]), []
    for told in pane["steps"]:
        canvas = [None if place < 0 else canvas[place] for place in told.get("source", range(len(canvas)))]
        for place, token, _, _ in told["changes"]:
            canvas[place] = token
        lengths.append(len(canvas))
    assert lengths == [4, 6, 6, 5]
    assert canvas == [7, 0, 2, 4, 3]
    drawn = denoising_picture(film(), TOKENS, GIVEN, WORDS.__getitem__)
    texts = [(node.text, node.get("x")) for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("text")]
    words = [text for text, _ in texts if text and "model calls" not in text]
    assert words == ["<pad>", "a ", "b ", "c ", "e ", "d "]
    assert len({x for text, x in texts if text in words}) == 6, "two tokens at one place"


def test_the_terminal_leaves_the_padding_behind_a_row_out() -> None:
    out = io.StringIO()
    last = watch(film(), GIVEN, WORDS.__getitem__, row=1, console=Console(file=out, width=80))
    assert last is not None
    assert "a b c \n-- 2 model calls, 0 masks left" in out.getvalue()
    assert picture(last, GIVEN, WORDS.__getitem__, row=1, length=3).plain.startswith("a b c \n")


def test_the_sample_knows_prompt_and_padding_of_the_last_canvas() -> None:
    sample = finish(film(), TOKENS, GIVEN, REAL)
    assert sample.tokens[0].tolist() == [7, 0, 2, 4, 3]
    assert sample.given.tolist() == [[True, True, False, False, False], [True, True, False, True, True]]
    assert sample.attention_mask.tolist() == [[False, True, True, True, True], [True, True, True, False, False]]
    assert sample.generated.tolist() == [3, 1]
    nothing = finish([], TOKENS, GIVEN, REAL)
    assert torch.equal(nothing.tokens, TOKENS)
    assert nothing.calls.tolist() == [0, 0]


def decode(ids: list[int]) -> str:
    return b"".join([b"a", b"b", b"\xc3", b"\xa9"][token] for token in ids).decode("utf-8", errors="replace")


def grown(*rows: list[int]) -> Iterator[Step]:
    before = torch.ones(1, len(rows[0])).bool()
    for row in rows:
        insert = torch.zeros(1, before.shape[1] + 1).long()
        insert[0, -1] = max(0, len(row) - before.shape[1])
        edit = Edit.of(before, insert=insert)
        before = edit.real
        yield step([row], [[0] * len(row)], edit)


def streamed(*rows: list[int], stops: frozenset[int] = frozenset()) -> list[str]:
    given: Tensor = torch.tensor([rows[0]]) != MASK
    return list(stream_text(grown(*rows), given, decode, stops=stops))


def test_text_goes_on_behind_a_canvas_that_was_full() -> None:
    first = [5, MASK, MASK]
    assert streamed(first, [5, 0, 2], [5, 0, 2, MASK], [5, 0, 2, 3]) == ["a", "é"]
    assert streamed(first, [5, 0, 2]) == ["a", "\ufffd"]  # it really ended there
    assert streamed(first, [5, 0, STOP], stops=frozenset({STOP})) == ["a"]


def test_padding_behind_a_row_is_no_text() -> None:
    real = torch.tensor([[True, True, True]])
    shorter = Edit.of(real, torch.tensor([[False, False, True]]))
    wide = Edit(torch.tensor([[0, 1, -1]]), torch.tensor([[True, True, False]]))
    assert shorter.real.tolist() == [[True, True]]
    steps = [step([[5, 0, PAD]], [[0, 1, 0]], wide)]
    assert list(stream_text(steps, torch.tensor([[True, False, False]]), decode)) == ["a"]
