"""The denoising of a row as a web page of its own: pause it, step through it, draw a slider over the steps.

The page fetches nothing: data, style and script are in the one file. It is the page of `llada.serving`, which has a
model behind it; without one it plays what was recorded.
"""

import html
import json
from collections.abc import Callable, Iterable
from importlib.resources import files

from torch import Tensor

from llada.samplers import Step
from llada.viewers.frames import frames_of
from llada.viewers.recording import Recording

_TITLE, _DATA = "<title>llada: watch it write</title>", "const SHARED = null;"


def page_source() -> str:
    """The page as it is served, without a recording in it."""
    return files("llada.viewers").joinpath("page.html").read_text(encoding="utf-8")


def denoising_page(
    steps: Iterable[Step],
    tokens: Tensor,
    given: Tensor,
    text: Callable[[int], str],
    *,
    row: int = 0,
    title: str = "Denoising",
    interval: float = 0.25,
) -> str:
    """A page that plays the steps of one row.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``.
        tokens: (B, L) int64, the canvas before the first step.
        given: (B, L) bool, the positions that were never open.
        text: gives the text of a token, such as ``lambda token: tokenizer.decode([token])``.
        row: which row of the batch.
        title: heading of the page.
        interval: seconds per step.

    Returns:
        The HTML, to be written to a file.

    Raises:
        ValueError: if the interval isn't above 0.
    """
    if not interval > 0.0:
        raise ValueError(f"interval must be above 0 seconds; got {interval}")
    before, *after = frames_of(steps, tokens, given, row)
    recording = Recording(before.ids, given[row].tolist(), text)
    run = {"sampler": "", "fixed": recording.given, "first": recording.first(), "done": None, "nats": None}
    data = {"name": title, "pace": round(1000 * interval), "panes": [{**run, "steps": [*map(recording.step, after)]}]}
    # Inside a script only "<" could end it or open a comment.
    script = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    page = page_source().replace(_TITLE, f"<title>{html.escape(title)}</title>", 1)
    return page.replace(_DATA, f"const SHARED = {script};", 1)
