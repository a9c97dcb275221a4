"""The table of presets on the page of samplers: name, what it does in a sentence, and its paper."""

import re
from inspect import getdoc
from typing import Any

PLACE = "<!-- presets -->"
PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def table() -> str:
    """A line of Markdown for each of `llada.samplers.PRESETS`."""
    from llada.samplers import PRESETS

    lines = ["| preset | what it does | paper |", "|---|---|---|"]
    for name, build in sorted(PRESETS.items()):
        text = getdoc(build) or ""
        first = " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")
        papers = [f"[{number}](https://arxiv.org/abs/{number})" for number in dict.fromkeys(PAPER.findall(text))]
        lines.append(f"| [`{name}`][llada.samplers.{name}] | {first} | {', '.join(papers)} |")
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table in its place; a hook of mkdocs."""
    return markdown.replace(PLACE, table()) if PLACE in markdown else markdown
