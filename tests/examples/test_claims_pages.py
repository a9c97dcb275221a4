"""The tables of the claims' pages say what the results say that they link to."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

CLAIMS = Path(__file__).parents[2] / "docs" / "claims"
INTERVAL = re.compile(r"-?[\d.e+]+ \(-?[\d.e+-]+ to -?[\d.e+-]+\)")
OWN = {"few-data": None, "instructions": None, "scaling": None, "in-context": "Which masks", "reversal": "Why"}
"""Page -> the heading from which on it tells of other commands, whose results aren't kept beside it."""


def texts(value: Any) -> set[str]:
    """All strings in what was read from JSON."""
    if isinstance(value, str):
        return {value.strip()}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(texts, parts))


@pytest.mark.parametrize("name", OWN)
def test_every_interval_of_a_table_was_measured(name: str) -> None:
    page = (CLAIMS / f"{name}.md").read_text(encoding="utf-8")
    if OWN[name] is not None:
        assert f"\n## {OWN[name]}" in page
        page = page.partition(f"\n## {OWN[name]}")[0]
    results = [CLAIMS / linked for linked in re.findall(r"\(([\w-]+\.json)\)", page)]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    told = {cell for row in rows for cell in (cell.strip(" *") for cell in row.split("|")) if INTERVAL.fullmatch(cell)}
    measured = set().union(*(texts(json.loads(path.read_text())["tables"]) for path in results))
    assert told
    assert not told - measured
