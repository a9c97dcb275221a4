"""The denoising of a row as a web page of its own: text that comes out of the masks, with a slider over the steps.

The page fetches nothing: data, style and script are in the one file.
"""

import html
import json
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from llada.samplers import Step
from llada.viewers.frames import Frame, frames_of

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; }
body { font: 1.05rem/1.7 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
#canvas { white-space: pre-wrap; min-height: 12rem; }
.given { opacity: .6; }
.mask { color: #999; letter-spacing: -.1em; }
.new { border-radius: .2em; color: #000; }
.again { color: #c00; }
#line { opacity: .7; font-size: .9rem; }
input { width: 100%; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p><button id="play" type="button">Pause</button> <span id="line"></span></p>
<input id="at" type="range" min="0" value="0" aria-label="step">
<div id="canvas"></div>
<script>
const DATA = @DATA@;
const canvas = document.getElementById("canvas"), at = document.getElementById("at");
const play = document.getElementById("play"), line = document.getElementById("line");
let running = true;
at.max = DATA.frames.length - 1;
function colour(p) { return p === null ? "#9cf" : "hsl(" + Math.round(120 * p) + " 80% 75%)"; }
function draw() {
  const frame = DATA.frames[at.value];
  canvas.replaceChildren(...frame.ids.map((id, i) => {
    const cell = document.createElement("span"), fresh = frame.changed[i];
    cell.textContent = id < 0 ? "\\u2591\\u2591" : DATA.texts[id];
    if (id < 0) cell.className = fresh ? "mask again" : "mask";
    else if ((frame.given || DATA.given)[i]) cell.className = "given";
    else if (fresh) { cell.className = "new"; cell.style.background = colour(frame.confidence[i]); }
    if (fresh && frame.confidence[i] !== null) cell.title = "confidence " + frame.confidence[i];
    return cell;
  }));
  line.textContent = "step " + at.value + " of " + at.max + ", " + frame.calls + " model calls";
}
play.onclick = () => { running = !running; play.textContent = running ? "Pause" : "Play"; };
at.oninput = draw;
setInterval(() => {
  if (running) { at.value = (Number(at.value) + 1) % DATA.frames.length; draw(); }
}, @INTERVAL@);
draw();
</script>
</body>
</html>
"""


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
    frames = frames_of(steps, tokens, given, row)
    numbers: dict[int, int] = {}  # token id -> index of its text

    def numbered(frame: Frame) -> dict[str, Any]:
        ids = [-1 if token is None else numbers.setdefault(token, len(numbers)) for token in frame.ids]
        changed = [int(new) for new in frame.changed]
        data = {"ids": ids, "changed": changed, "confidence": frame.confidence, "calls": frame.calls}
        return data if frame.given == frames[0].given else {**data, "given": [int(old) for old in frame.given]}

    shown = [numbered(frame) for frame in frames]
    fixed = [int(old) for old in frames[0].given]
    data = {"texts": [text(token) for token in numbers], "given": fixed, "frames": shown}
    # Inside a script only "<" could end it or open a comment.
    script = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    page = _PAGE.replace("@TITLE@", html.escape(title)).replace("@INTERVAL@", str(round(1000 * interval)))
    return page.replace("@DATA@", script)
