"""What the viewers show of a run whose every step is known."""

import io
import json
import re

import pytest
import torch
from rich.console import Console
from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import Binomial, ForwardBackwardRemasking, PerStep, RandomOrder, UnmaskingSampler
from llada.viewers import denoising_page, picture, watch

PROCESS = MaskingProcess(mask_token_id=4)
TOKENS = torch.tensor([[0, 4, 4], [4, 1, 4]])
WORDS = ["a ", "<b>&", "</script><!--", "ü "]


def model(tokens: Tensor) -> Tensor:
    """Wants "<b>&" in the second column with probability 0.8, "</script><!--" elsewhere with a half."""
    p = torch.tensor([[0.1, 0.2, 0.5, 0.2, 0.0], [0.1, 0.8, 0.05, 0.05, 0.0], [0.1, 0.2, 0.5, 0.2, 0.0]])
    return p.log().expand(len(tokens), -1, -1)


def steps() -> list:
    return list(UnmaskingSampler(PerStep(1)).iterate(model, TOKENS, PROCESS))


def test_a_picture_shows_text_masks_and_calls() -> None:
    first, last = (picture(step, TOKENS, PROCESS, WORDS.__getitem__) for step in steps())
    assert first.plain == "a <b>&░░\n-- 1 model calls, 1 masks left"
    assert last.plain == "a <b>&</script><!--\n-- 2 model calls, 0 masks left"
    styles = [str(span.style) for span in first.spans]
    assert styles == ["dim", "bold rgb(80,180,0)", "bright_black", "dim"]
    assert picture(steps()[0], TOKENS, PROCESS, WORDS.__getitem__, row=1).plain.startswith("</script><!--<b>&░░")


def test_watching_draws_every_step_and_returns_the_last() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="truecolor")
    last = watch(steps(), TOKENS, PROCESS, WORDS.__getitem__, console=console)
    assert last is not None
    assert last.tokens.tolist() == [[0, 1, 2], [2, 1, 2]]
    assert "1 masks left" in out.getvalue()
    assert "0 masks left" in out.getvalue()
    assert watch([], TOKENS, PROCESS, WORDS.__getitem__, console=console) is None


def test_a_token_that_is_masked_again_is_red() -> None:
    tokens = torch.full((1, 3), 4)
    sampler = UnmaskingSampler(Binomial(30), RandomOrder(), rates=ForwardBackwardRemasking())
    pictures = [picture(s, tokens, PROCESS, WORDS.__getitem__) for s in sampler.iterate(model, tokens, PROCESS, seed=1)]
    assert any(span.style == "red" for shown in pictures for span in shown.spans)


def data_of(page: str) -> dict:
    return json.loads(re.search(r"const DATA = (.*);\n", page)[1])


def test_a_page_holds_all_frames() -> None:
    data = data_of(denoising_page(steps(), TOKENS, PROCESS, WORDS.__getitem__))
    texts, frames = data["texts"], data["frames"]
    shown = [["░" if i < 0 else texts[i] for i in frame["ids"]] for frame in frames]
    assert shown == [["a ", "░", "░"], ["a ", "<b>&", "░"], ["a ", "<b>&", "</script><!--"]]
    assert [frame["calls"] for frame in frames] == [0, 1, 2]
    assert [frame["changed"] for frame in frames] == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [frame["confidence"] for frame in frames] == [[None] * 3, [None, 0.8, 0.5], [None, None, 0.5]]
    assert data["given"] == [1, 0, 0]


def test_a_page_fetches_nothing_and_text_cannot_break_out() -> None:
    page = denoising_page(steps(), TOKENS, PROCESS, WORDS.__getitem__, title="<i>x</i> & y", interval=0.1)
    assert not re.search(r"https?:|src=|href=|url\(|@import", page)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<!--" not in page
    assert "<title>&lt;i&gt;x&lt;/i&gt; &amp; y</title>" in page
    assert "}, 100);" in page
    assert "@" not in page
    with pytest.raises(ValueError, match="above 0"):
        denoising_page(steps(), TOKENS, PROCESS, WORDS.__getitem__, interval=0.0)
