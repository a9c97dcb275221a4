"""How `lengths.py` judges what was written into gaps, and the table of it."""

import math
from typing import Any, NamedTuple

from llada.data import Tokenizer

SIZES = (2, 4, 6)
"""Tokens of the gaps that are filled."""


class Gap(NamedTuple):
    """A piece of text with a gap: what stands before, in and behind it."""

    before: list[int]
    inside: list[int]
    behind: list[int]


def judged(rows: list[Gap], results: list[dict[str, Any]], tokenizer: Tokenizer, eos: int) -> dict[str, Any]:
    """Shares of exact matches of text, in all and by size, and of right lengths, and the mean number of calls."""
    written = [[token for token in result["tokens"] if token != eos] for result in results]
    pairs = list(zip(rows, written, strict=True))
    exact = [tokenizer.decode(row.inside) == tokenizer.decode(new) for row, new in pairs]
    sizes = [len(row.inside) for row in rows]
    return {
        "rows": len(rows),
        "exact": sum(exact),
        "by size": {size: sum(e for n, e in zip(sizes, exact, strict=True) if n == size) for size in SIZES},
        "length": sum(len(new) == len(row.inside) for row, new in pairs),
        "calls": sum(result["calls"] for result in results) / len(rows),
    }


def interval(hits: int, number: int) -> tuple[float, float]:
    """Wilson's interval of 95% for a share."""
    z, p = 1.96, hits / number
    middle = (p + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(p * (1 - p) / number + z * z / (4 * number * number))
    return middle - half, middle + half


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table, shares in percent."""
    head = "| filled by | exact match, % | 2 | 4 | 6 tokens | right length, % | calls |\n"
    head += "|---|---:|---:|---:|---:|---:|---:|\n"
    lines = []
    for name, found in table.items():
        number, each = found["rows"], found["rows"] // len(SIZES)
        shares = []
        for key in ("exact", "length"):
            low, high = interval(found[key], number)
            shares.append(f"{100 * found[key] / number:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        sizes = " | ".join(f"{100 * hits / each:.1f}" for hits in found["by size"].values())
        lines.append(f"| {name} | {shares[0]} | {sizes} | {shares[1]} | {found['calls']:.1f} |\n")
    return head + "".join(lines)
