"""A live view of `llada.samplers.Sampler.iterate` in the terminal.

What was given is dim, masks are grey blocks, and a token that the last step wrote has a colour from red to green by the
confidence that the model had in it.
"""

import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from llada.files.visible import visible
from llada.samplers import Step
from llada.viewers.frames import last_column

MASK_SIGN = "░"


def watch(
    steps: Iterable[Step],
    given: Tensor,
    text: Callable[[int], str],
    *,
    row: int = 0,
    pause: float = 0.0,
    console: Console | None = None,
) -> Step | None:
    """Draw a row of the canvas anew, in place, after every step.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``.
        given: (B, L) bool, the positions that were never open: see `llada.samplers.Canvas`.
        text: gives the text of a token, such as ``lambda token: tokenizer.decode([token])``.
        row: which row of the batch is shown.
        pause: seconds between steps.
        console: where; None for the standard output.

    Returns:
        The last step; None if there was none.
    """
    last, length = None, None
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for step in steps:
            last, given = step, step.carried(given)
            if step.edit is not None:
                length = last_column(step.edit.real[row])
            live.update(picture(step, given, text, row, length), refresh=True)
            time.sleep(pause)
    return last


def picture(step: Step, given: Tensor, text: Callable[[int], str], row: int = 0, length: int | None = None) -> Text:
    """A row of the canvas after a step, with a line on model calls and masks below.

    Args:
        step: the step.
        given: (B, L) bool, the positions that were never open.
        text: gives the text of a token; what a terminal would obey is written out, see `llada.files.visible`.
        row: which row of the batch.
        length: columns that are shown; None for all.
    """
    shown = Text()
    parts = (step.tokens, given, step.open, step.changed, step.confidence)
    for token, old, waits, new, sure in zip(*(part[row, :length].tolist() for part in parts), strict=True):
        if waits:
            shown.append(MASK_SIGN * 2, style="red" if new else "bright_black")  # red: masked again
        else:
            shown.append(visible(text(token)), style="dim" if old else _colour(sure) if new else "")
    left = int(step.open[row].sum())
    changed = f", {int(step.changed[row].sum())} tokens changed" if step.rewrites else ""
    shown.append(f"\n-- {int(step.calls[row])} model calls, {left} masks left{changed}", style="dim")
    return shown


def _colour(confidence: float) -> str:
    """Red for 0, yellow for a half, green for 1; blue if nothing is known."""
    if confidence != confidence:  # NaN
        return "blue"
    red, green = min(1.0, 2.0 - 2.0 * confidence), min(1.0, 2.0 * confidence)
    return f"bold rgb({round(200 * red)},{round(180 * green)},0)"
