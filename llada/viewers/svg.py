"""The denoising of a row as an animated picture: an SVG file that needs nothing but itself.

Every place has a cell that is as wide as the widest text that it ever shows, so nothing moves while masks give way. A
viewer that can't animate shows the last frame.
"""

import colorsys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from torch import Tensor

from llada.samplers import Step
from llada.viewers.frames import ABSENT, Frame, aligned, frames_of

WIDTH, HEIGHT, MARGIN = 9.0, 24.0, 16.0  # of a character's column and of a line, in pixels
_UNKNOWN = "#99ccff"  # as in the page: a token whose confidence isn't known
_STYLE = (
    "text{font:15px ui-monospace,Menlo,Consolas,monospace;white-space:pre;fill:#111}"
    ".given{fill:#777}.line{fill:#777;font-size:13px}.mask{fill:#ccc}.again{fill:#e66}"
)


class Cell(NamedTuple):
    """Where a token stands, in columns and lines."""

    column: int
    line: int
    width: int


@dataclass(frozen=True)
class _Film:
    """When things are seen. Frame k of n is shown from k / (n + hold) of the cycle on; the last one stays."""

    count: int
    interval: float
    hold: float

    @property
    def seconds(self) -> float:
        return self.count * self.interval + self.hold

    def seen(self, first: int, behind: int) -> tuple[str, str]:
        """Attribute and child of an element that is seen from a frame to before another one."""
        last = behind == self.count
        if first == 0 and last:
            return "", ""
        times, values = [0.0], ["hidden" if first else "visible"]
        if first:
            times.append(first * self.interval / self.seconds)
            values.append("visible")
        if not last:
            times.append(behind * self.interval / self.seconds)
            values.append("hidden")
        animate = (
            f'<animate attributeName="visibility" calcMode="discrete" dur="{self.seconds:g}s" repeatCount="indefinite" '
            f'keyTimes="{";".join(f"{time:.4g}" for time in times)}" values="{";".join(values)}"/>'
        )
        return "" if last else ' visibility="hidden"', animate


def denoising_picture(
    steps: Iterable[Step],
    tokens: Tensor,
    given: Tensor,
    text: Callable[[int], str],
    *,
    row: int = 0,
    interval: float = 0.25,
    hold: float = 2.0,
    columns: int = 80,
) -> str:
    """An animated SVG of the steps of one row, which begins anew when it is over.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``.
        tokens: (B, L) int64, the canvas before the first step.
        given: (B, L) bool, the positions that were never open.
        text: of a token, such as ``lambda token: tokenizer.decode([token])``.
        row: which row of the batch.
        interval: seconds per step.
        hold: seconds for which the last frame stays, beside its own.
        columns: characters per line.

    Returns:
        The SVG, to be written to a file.

    Raises:
        ValueError: if a time or the number of columns isn't above 0.
    """
    for name, value in (("interval", interval), ("hold", hold), ("columns", columns)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")
    frames = aligned(frames_of(steps, tokens, given, row))
    film = _Film(len(frames), interval, hold)
    words = {ABSENT: ""} | {
        token: _visible(text(token)) for frame in frames for token in frame.ids if token not in (None, ABSENT)
    }
    cells = _layout(frames, words, columns)
    parts = [part for place, cell in enumerate(cells) for part in _cell(film, frames, place, cell, words)]
    bottom = cells[-1].line + 1 if cells else 0
    parts += [_counter(film, index, frame, bottom) for index, frame in enumerate(frames)]
    width, height = columns * WIDTH + 2 * MARGIN, (bottom + 1.5) * HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _visible(text: str) -> str:
    """A text in one line and without what XML can't hold."""
    shown = text.replace("\n", "↵").replace("\t", "→")
    return "".join(c if c.isprintable() else "\ufffd" for c in shown)


def _columns(text: str) -> int:
    """Columns of a text in a terminal's font."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return wide + sum(not unicodedata.combining(character) for character in text)


def _layout(frames: Sequence[Frame], words: dict[int, str], columns: int) -> list[Cell]:
    """A cell for each place, in lines that end where they are full or where the text ends them."""
    cells, column, line = [], 0, 0
    for shown in zip(*(frame.ids for frame in frames), strict=True):
        width = max(1, *(_columns(words[token]) for token in shown if token is not None))
        if column and column + width > columns:
            column, line = 0, line + 1
        cells.append(Cell(column, line, width))
        column += width
        if shown[-1] is not None and words[shown[-1]].endswith("↵"):
            column, line = 0, line + 1
    return cells


def _cell(film: _Film, frames: Sequence[Frame], place: int, cell: Cell, words: dict[int, str]) -> Iterable[str]:
    """What is seen at a place, from one change to the next."""
    x, y = MARGIN + cell.column * WIDTH, MARGIN + cell.line * HEIGHT
    given = frames[0].given[place]
    starts = [k for k, frame in enumerate(frames) if k == 0 or frame.changed[place]]
    for first, behind in zip(starts, [*starts[1:], len(frames)], strict=True):
        token, sure = frames[first].ids[place], frames[first].confidence[place]
        if token is None:
            kinds = (("again", first, first + 1), ("mask", first + 1, behind)) if first else (("mask", first, behind),)
            inner = cell.width * WIDTH - 2  # of a mask
            for kind, begin, over in kinds:
                if begin < over:
                    yield _rect(film, x + 1, y, inner, f'class="{kind}"', begin, over)
            continue
        if first and token != ABSENT:
            colour = _UNKNOWN if sure is None else _colour(sure)
            yield _rect(film, x, y, cell.width * WIDTH, f'fill="{colour}"', first, first + 1)
        yield _text(film, words[token], x, y, "given" if given else "", first, behind)


def _rect(film: _Film, x: float, y: float, width: float, paint: str, first: int, behind: int) -> str:
    hidden, animate = film.seen(first, behind)
    box = f'x="{x:g}" y="{y + 2:g}" width="{width:g}" height="{HEIGHT - 4:g}" rx="3"'
    return f"<rect {box} {paint}{hidden}>{animate}</rect>"


def _text(film: _Film, text: str, x: float, y: float, kind: str, first: int, behind: int) -> str:
    """Characters are stretched to the columns that they were given, whatever font there is."""
    if not text.strip():
        return ""
    hidden, animate = film.seen(first, behind)
    named = f' class="{kind}"' if kind else ""
    length = f' textLength="{_columns(text) * WIDTH:g}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{x:g}" y="{y + 17:g}"{named}{length} xml:space="preserve"{hidden}>{escape(text)}{animate}</text>'


def _counter(film: _Film, index: int, frame: Frame, line: int) -> str:
    hidden, animate = film.seen(index, index + 1)
    words = f"step {index} of {film.count - 1}, {frame.calls} model calls"
    return f'<text class="line" x="{MARGIN:g}" y="{MARGIN + (line + 1) * HEIGHT:g}"{hidden}>{words}{animate}</text>'


def _colour(sure: float) -> str:
    """Red for 0 over yellow to green for 1, as light as on the page."""
    rgb = colorsys.hls_to_rgb(sure / 3.0, 0.75, 0.8)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
