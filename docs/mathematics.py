"""Formulas of the pages as MathML, which browsers draw by themselves: no script, no font, nothing fetched.

Pages are written with $...$ and $$...$$, as GitHub renders them, too.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """The HTML of a page with its formulas in MathML; a hook of mkdocs."""
    text = BLOCK.sub(
        lambda found: f'<div class="formula">{convert(html.unescape(found[1]), display="block")}</div>', text
    )
    return INLINE.sub(lambda found: convert(html.unescape(found[1])), text)
