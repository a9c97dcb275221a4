"""Formulas of the pages as MathML, which browsers draw by themselves: no script, no font, nothing fetched.

Pages are written with $...$ and $$...$$, as GitHub renders them, too.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
PRIMED = re.compile(r"<msup><mi>([^<]+)</mi><mi>&#x02032;</mi></msup>")
FUNCTION = re.compile(r"(<mi>(?:log|exp)</mi>)(?!<mo[^>]*>&#x00028;)")
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def drawn(formula: str, display: str) -> str:
    """A formula as MathML, with a prime of full size and a space behind a function, which the converter leaves out."""
    made = convert(html.unescape(formula), display=display)
    return FUNCTION.sub(r'\1<mspace width="0.17em"/>', PRIMED.sub(r'<mi>\1</mi><mo lspace="0" rspace="0">′</mo>', made))


def on_page_content(text: str, **_: Any) -> str:
    """The HTML of a page with its formulas in MathML; a hook of mkdocs."""
    text = BLOCK.sub(lambda found: f'<div class="formula">{_parts(found[1])}</div>', text)
    return INLINE.sub(lambda found: drawn(found[1], "inline"), text)


def _parts(formula: str) -> str:
    r"""A formula in pieces that \qquad divides; they stand below one another where a line has no room for all."""
    pieces = [drawn(piece, "block") for piece in formula.split(r"\qquad")]
    return pieces[0] if len(pieces) == 1 else "".join(f"<span>{piece}</span>" for piece in pieces)
