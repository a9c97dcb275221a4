"""A picture per claim for docs/claims/index.md, drawn from the results that stand beside it; nothing is run.

    python -m examples.claims.pictures            (seconds; --docs: where results and pictures are)

A title is a sentence whose numbers come from the results, and bars are labelled where they stand, so that a picture
needs no caption. A claim whose results aren't there is left out.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

from examples.claims.report import COLOURS
from examples.claims.statistics import Interval
from examples.claims.twins import DIFFUSION, NEXT_TOKEN

mpl.use("Agg")
import matplotlib.pyplot as plt

PAINT = {DIFFUSION: COLOURS[0], NEXT_TOKEN: COLOURS[1]}
IN_BLOCKS = "in blocks of 2, from left to right"
SHADES = {**PAINT, IN_BLOCKS: COLOURS[3], "by margin": COLOURS[0], "in random order": COLOURS[2]}
PAGES = {"planning": ("planning", "model"), "sudoku": ("planning", "blanks of 81")}
"""Claims whose results stand in a table of a page alone -> the page, and the name of the table's first column."""
Table = list[dict[str, str]]
Bars = dict[str, dict[str, Interval]]
"""Group -> model -> what it reached."""


def interval(cell: str) -> Interval:
    """A cell such as "98 (91 to 100)".

    Raises:
        ValueError: if it is none.
    """
    found = re.fullmatch(r"\**([-\d.e+]+) \(([-\d.e+]+) to ([-\d.e+]+)\)\**", cell.strip())
    if found is None:
        raise ValueError(f"{cell!r} isn't a number with its interval, such as 98 (91 to 100)")
    mean, low, high = map(float, found.groups())
    return Interval(mean, low, high, low)


def lookup(table: Table, column: str, **cells: str) -> Interval:
    """The one cell of a column in the row with these cells.

    Args:
        table: rows.
        column: of the number.
        cells: of the row; names have underscores for spaces.
    """
    wanted = {name.replace("_", " "): cell for name, cell in cells.items()}
    (row,) = (row for row in table if wanted.items() <= row.items())
    return interval(row[column])


def markdown_table(text: str, first: str) -> Table:
    """The table of a page whose head begins with a column's name.

    Args:
        text: of the page.
        first: that name.
    """
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def reversal(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Facts, as they were read and backwards."""
    name, description = "name first", "description first"
    groups = {"asked as it was read": (name, name), "asked the other way round": (name, description)}
    bars = {
        group: {model: lookup(tables["Facts"], "written", model=model, read=read, asked=asked) for model in PAINT}
        for group, (read, asked) in groups.items()
    }
    ours, twin = (bars["asked the other way round"][model].mean for model in PAINT)
    title = f"Asked the other way round, diffusion writes {ours:.0f} %\nof what it has read, its twin {twin:.0f} %"
    return title, "% of answers written without an error", bars


def in_context(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Both tasks with as many examples as there were."""
    bars = {}
    for group, task, shown in (("a table, 12 examples", "recall", "12"), ("a function, 5 examples", "functions", "5")):
        table = tables[f"{task}: right outputs by examples shown"]
        bars[group] = {model: lookup(table, shown, model=model) for model in PAINT}
    ours, twin = (bars["a function, 5 examples"][model].mean for model in PAINT)
    title = (
        f"Both learn tables from the prompt; new functions\ndiffusion in {ours:.0f} % of cases, its twin in {twin:.0f}"
    )
    return title, "% right after examples", bars


def instructions(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Before and after fine-tuning."""
    bars = {
        group: {
            model: lookup(tables["Questions on new arguments"], "right", model=model, stage=stage, asked="both new")
            for model in PAINT
        }
        for group, stage in (("before fine-tuning", "base"), ("after", "instruct"))
    }
    ours, twin = (bars["after"][model].mean for model in PAINT)
    title = (
        f"Fine-tuned, diffusion follows {ours:.0f} % of new instructions,\nits twin {twin:.0f} % after as many tokens"
    )
    return title, "% right, wording and argument new", bars


def scaling(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """The price at the ends of the ladder, in any order and in blocks."""
    column, names = "times the twin's compute", {DIFFUSION: "convolution and unit weight", IN_BLOCKS: "in blocks of 2"}
    ladders = {name: [row for row in tables["Runs"] if row["recipe"] == recipe] for name, recipe in names.items()}
    bars: Bars = {
        f"{float(rung[0]['operations']):.0e} operations".replace("e+", "e"): {
            name: interval(row[column]) for name, row in zip(names, rung, strict=True)
        }
        for rung in (tuple(rows[end] for rows in ladders.values()) for end in (0, -1))
    }
    (low, _), (high, blocks) = ([value.mean for value in found.values()] for found in bars.values())
    first, last = (float(ladders[DIFFUSION][end]["operations"]) for end in (0, -1))
    title = (
        f"For the twin's loss diffusion needs {low:.2g} times its compute, and {high:.2g}\n"
        f"times with {last / first:.0f} times more of it; in blocks of 2, {blocks:.2g} times"
    )
    return title, column, bars


def few_data(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Held-out text after training on few tokens until nothing improves."""
    bars: Bars = {}
    for row in tables["Held-out text"]:
        model, _, untuned = row["model"].partition(", ")
        if untuned in ("", "not tuned"):
            words = f"{row['unique tokens']} tokens, {'not ' if untuned else ''}tuned"
            bars.setdefault(words, {})[model] = interval(row["nats per token"])
    tuned = next(found for group, found in bars.items() if "not tuned" not in group)
    ours, twin = (tuned[model].mean for model in PAINT)
    order = "below" if ours < twin else "above"
    title = f"On few tokens diffusion ends at {ours:.2f} nats,\n{order} its regularised twin at {twin:.2f}"
    return title, "nats per token, held out", bars


def planning(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Orders of writing, and the twin."""
    table, column = tables["planning"], "right answers, %"
    names = {"the surest first": "by confidence, or by margin, 3 steps", "left to right": "left to right"}
    bars: Bars = {
        name: {DIFFUSION: lookup(table, column, model=DIFFUSION, decoding=row)} for name, row in names.items()
    }
    bars["left to right"][NEXT_TOKEN] = lookup(table, column, model=f"{NEXT_TOKEN} (twin)", decoding="left to right")
    best, twin = bars["the surest first"][DIFFUSION].mean, bars["left to right"][NEXT_TOKEN].mean
    title = (
        f"The surest token first, diffusion finds {best:.0f} % of the ways,\n"
        f"the twin from left to right {twin:.0f} (a guess: 33)"
    )
    return title, "% right", bars


def sudoku(tables: dict[str, Table]) -> tuple[str, str, Bars]:
    """Orders of writing, by how many cells are blank."""
    names = {"margin": "by margin", "random order": "in random order"}
    bars: Bars = {
        f"{row['blanks of 81']} blanks": {name: interval(row[order]) for order, name in names.items()}
        for row in tables["sudoku"]
    }
    group, most = list(bars.items())[-1]
    margin, random = (most[name].mean for name in names.values())
    title = f"The same weights solve {margin:.0f} % of Sudokus\nwith {group} by margin, {random:.0f} % in random order"
    return title, "% of 9 x 9 puzzles solved", bars


PICTURES: dict[str, Callable[[dict[str, Table]], tuple[str, str, Bars]]] = {
    "reversal": reversal,
    "in-context": in_context,
    "instructions": instructions,
    "scaling": scaling,
    "few-data": few_data,
    "planning": planning,
    "sudoku": sudoku,
}


def tables_of(docs: Path, claim: str) -> dict[str, Table] | None:
    """The results of a claim: those in JSON, or a table of a page; None if there are none."""
    path = docs / "claims" / f"{claim}.json"
    if path.exists():
        found: dict[str, Table] = json.loads(path.read_text(encoding="utf-8"))["tables"]
        return found
    name, first = PAGES.get(claim, (claim, "model"))
    page = docs / f"{name}.md"
    return {claim: markdown_table(page.read_text(encoding="utf-8"), first)} if page.exists() else None


def draw(title: str, label: str, bars: Bars, path: Path) -> None:
    """Bars with their intervals, each labelled with its number, on a ground of its own for light and dark pages."""
    figure, axis = plt.subplots(figsize=(5.2, 2.9), layout="constrained")
    seen: set[str] = set()
    for place, (_, found) in enumerate(bars.items()):
        for offset, (model, value) in enumerate(found.items()):
            x = place + 0.36 * (offset - (len(found) - 1) / 2)
            axis.bar(x, value.mean, 0.34, color=SHADES[model], label=None if model in seen else model)
            axis.errorbar(x, value.mean, [[value.mean - value.low], [value.high - value.mean]], color="0.2", capsize=3)
            axis.text(x, value.high, f" {value.mean:.3g}", ha="center", va="bottom", fontsize=8)
            seen.add(model)
    axis.set_xticks(range(len(bars)), list(bars), fontsize=8)
    axis.set_ylabel(label, fontsize=8)
    axis.set_ylim(0, 1.16 * max(value.high for found in bars.values() for value in found.values()))
    axis.set_title(title, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def main(arguments: Any = None) -> None:
    """Draw what there are results of."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the documentation")
    docs = parser.parse_args(arguments).docs
    for claim, picture in PICTURES.items():
        tables = tables_of(docs, claim)
        if tables is not None:
            path = docs / "images" / f"claim-{claim}.png"
            draw(*picture(tables), path)
            print(path)


if __name__ == "__main__":
    main()
