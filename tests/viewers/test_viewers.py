"""What the viewers show of a run whose every step is known."""

import io
import json
import re
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from torch import Tensor

from llada.process import MaskingProcess, UniformProcess
from llada.samplers import AncestralSampler, Binomial, ForwardBackwardRemasking, PerStep, RandomOrder, UnmaskingSampler
from llada.viewers import denoising_page, denoising_picture, frames_of, picture, watch

MASK = 4
PROCESS = MaskingProcess(MASK)
TOKENS = torch.tensor([[0, 4, 4], [4, 1, 4]])
GIVEN = TOKENS != MASK
WORDS = ["a ", "<b>&", "</script><!--", "ü "]


def model(tokens: Tensor) -> Tensor:
    """Wants "<b>&" in the second column with probability 0.8, "</script><!--" elsewhere with a half."""
    p = torch.tensor([[0.1, 0.2, 0.5, 0.2, 0.0], [0.1, 0.8, 0.05, 0.05, 0.0], [0.1, 0.2, 0.5, 0.2, 0.0]])
    return p.log().expand(len(tokens), -1, -1)


def steps() -> list:
    return list(UnmaskingSampler(PerStep(1)).iterate(model, TOKENS, PROCESS))


def test_a_picture_shows_text_masks_and_calls() -> None:
    first, last = (picture(step, GIVEN, WORDS.__getitem__) for step in steps())
    assert first.plain == "a <b>&░░\n-- 1 model calls, 1 masks left"
    assert last.plain == "a <b>&</script><!--\n-- 2 model calls, 0 masks left"
    styles = [str(span.style) for span in first.spans]
    assert styles == ["dim", "bold rgb(80,180,0)", "bright_black", "dim"]
    assert picture(steps()[0], GIVEN, WORDS.__getitem__, row=1).plain.startswith("</script><!--<b>&░░")


def test_watching_draws_every_step_and_returns_the_last() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="truecolor")
    last = watch(steps(), GIVEN, WORDS.__getitem__, console=console)
    assert last is not None
    assert last.tokens.tolist() == [[0, 1, 2], [2, 1, 2]]
    assert "1 masks left" in out.getvalue()
    assert "0 masks left" in out.getvalue()
    assert watch([], GIVEN, WORDS.__getitem__, console=console) is None


def test_a_token_that_is_masked_again_is_red() -> None:
    tokens = torch.full((1, 3), 4)
    sampler = UnmaskingSampler(Binomial(30), RandomOrder(), rates=ForwardBackwardRemasking())
    pictures = [picture(s, tokens != MASK, WORDS.__getitem__) for s in sampler.iterate(model, tokens, PROCESS, seed=1)]
    assert any(span.style == "red" for shown in pictures for span in shown.spans)


def data_of(page: str) -> dict:
    return json.loads(re.search(r"const SHARED = (.*);\n", page)[1])


def test_a_page_holds_all_steps() -> None:
    data = data_of(denoising_page(steps(), TOKENS, GIVEN, WORDS.__getitem__, title="Run", interval=0.1))
    (pane,) = data["panes"]
    assert pane["first"] == {"canvas": [0, None, None], "given": [True, False, False], "texts": {"0": "a "}}
    assert [step["calls"] for step in pane["steps"]] == [1, 2]
    changes = [step["changes"] for step in pane["steps"]]
    assert changes == [[[1, 1, "<b>&", pytest.approx(0.8)]], [[2, 2, "</script><!--", pytest.approx(0.5)]]]
    assert data["name"] == "Run"
    assert data["pace"] == 100


def test_a_page_fetches_nothing_and_text_cannot_break_out() -> None:
    page = denoising_page(steps(), TOKENS, GIVEN, WORDS.__getitem__, title="<i>x</i> & y")
    assert not re.search(r"https?:|src=|href=|url\(|@import", page)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<!--" not in page
    assert "<title>&lt;i&gt;x&lt;/i&gt; &amp; y</title>" in page
    with pytest.raises(ValueError, match="above 0"):
        denoising_page(steps(), TOKENS, GIVEN, WORDS.__getitem__, interval=0.0)


def seen(svg: str, seconds: float) -> list[tuple[str, str]]:
    """What a viewer shows at a time, by SMIL's rules: (kind, text), from top left to bottom right."""
    found = []
    for element in ElementTree.fromstring(svg):
        tag, animate = element.tag.partition("}")[2], element.find("{*}animate")
        visible = element.get("visibility", "visible")
        if animate is not None:
            cycle = float(animate.get("dur").removesuffix("s"))
            times = [float(time) * cycle for time in animate.get("keyTimes").split(";")]
            visible = [v for t, v in zip(times, animate.get("values").split(";"), strict=True) if t <= seconds][-1]
        if visible == "visible" and element.get("x"):
            kind = element.get("class") or element.get("fill") or ""
            found.append((float(element.get("x")), (f"{tag} {kind}".strip(), element.text or "")))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def test_an_animated_picture_shows_each_frame_in_its_time() -> None:
    svg = denoising_picture(steps(), TOKENS, GIVEN, WORDS.__getitem__, interval=1.0, hold=2.0)
    masks = [("rect mask", "")] * 2
    assert seen(svg, 0.5) == [("text given", "a "), ("text line", "step 0 of 2, 0 model calls"), *masks]
    middle = [("rect #b5f28c", ""), ("text", "<b>&"), ("rect mask", "")]
    assert seen(svg, 1.5) == [("text given", "a "), ("text line", "step 1 of 2, 1 model calls"), *middle]
    last = [("text", "<b>&"), ("rect #f2f28c", ""), ("text", "</script><!--")]
    for late in (2.5, 4.9):
        assert [kind for _, kind in seen(svg, late)] == [
            "a ",
            "step 2 of 2, 2 model calls",
            "<b>&",
            "",
            "</script><!--",
        ]
    assert {e[0] for e in seen(svg, 4.9)} == {"text given", "text line", *(kind for kind, _ in last)}
    still = [e.get("visibility", "visible") for e in ElementTree.fromstring(svg)]
    assert still.count("visible") == 2 + len(seen(svg, 4.9))  # style and background; without animation: the last frame
    assert not re.search(r"href=|url\(|@import|<script", svg)


def test_an_animated_picture_keeps_tokens_apart_and_breaks_lines() -> None:
    words = ["one\n", "two", "\x00\t", "河川", ""]
    process, tokens = MaskingProcess(4), torch.tensor([[0, 1, 2, 3]])
    svg = denoising_picture([], tokens, tokens != process.mask_token_id, words.__getitem__, columns=6)
    texts = [e for e in ElementTree.fromstring(svg) if e.tag.endswith("text")]
    assert [e.text for e in texts] == ["one↵", "two", "\ufffd→", "河川", "step 0 of 0, 0 model calls"]
    lines = [float(e.get("y")) for e in texts]
    assert lines[0] < lines[1] == lines[2] < lines[3] < lines[4]
    assert [float(e.get("textLength")) / 9 for e in texts[:4]] == [4, 3, 2, 4]
    for name in ("interval", "hold", "columns"):
        with pytest.raises(ValueError, match=f"{name} must be above 0; got 0"):
            denoising_picture([], tokens, tokens != process.mask_token_id, words.__getitem__, **{name: 0})


def test_a_token_that_is_masked_again_is_red_in_the_picture() -> None:
    tokens = torch.full((1, 3), 4)
    sampler = UnmaskingSampler(Binomial(30), RandomOrder(), rates=ForwardBackwardRemasking())
    film = list(sampler.iterate(model, tokens, PROCESS, seed=1))
    frames = frames_of(film, tokens, tokens != MASK)
    again = sum(new and token is None for frame in frames for new, token in zip(frame.changed, frame.ids, strict=True))
    assert again > 0
    assert denoising_picture(film, tokens, tokens != MASK, WORDS.__getitem__).count('class="again"') == again


def test_a_canvas_without_masks_tells_how_much_changes() -> None:
    process, given = UniformProcess(4), torch.tensor([[True, False, False], [True, False, False]])
    tokens = torch.tensor([[0, 0, 0], [1, 0, 0]])
    seen = list(AncestralSampler(3).iterate(lambda x: 30.0 * model(x)[..., :4], tokens, process, given=given))
    last = seen[-1]
    assert picture(last, given, WORDS.__getitem__).plain == (
        f"a <b>&</script><!--\n-- 3 model calls, 0 masks left, {int(last.changed[0].sum())} tokens changed"
    )
    frames = frames_of(seen, tokens, given)
    assert frames[0].ids == [0, None, None]
    assert all(None not in frame.ids for frame in frames[1:])
