"""The notebooks of the site: pages of Markdown whose Python cells are run when the site is built.

What a cell prints and draws stands below it, and each page is also written as a Jupyter notebook, with its outputs.
The sources are Jupytext's Markdown format, so that editors which know it open them as notebooks.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = "notebooks/"
CELL = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Cell(NamedTuple):
    """A piece of a notebook.

    Attributes:
        source: its Markdown or Python.
        code: whether it is Python.
        printed: what it wrote to the standard output.
        pictures: SVG of the figures that it drew, each with its title.
    """

    source: str
    code: bool = False
    printed: str = ""
    pictures: tuple[tuple[str, str], ...] = ()


@lru_cache
def run(text: str) -> tuple[Cell, ...]:
    """Run the cells of a page in order, in one namespace.

    What they gave is kept in build/, for the tests that judge it and the site that shows it, until a line of the page
    or of the library changes.
    """
    kept = ROOT / "build" / "notebooks" / f"{_digest(text)}.json"
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return tuple(Cell(*parts, tuple(map(tuple, pictures))) for *parts, pictures in found)
    import matplotlib as mpl

    with mpl.rc_context({"backend": "Agg", "svg.hashsalt": "llada"}):
        cells = tuple(_cells(text))
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(cells), encoding="utf-8")
    part.replace(kept)
    return cells


@lru_cache
def _library() -> bytes:
    """A digest of the library, and of the PyTorch that it runs on."""
    sources = sorted((ROOT / "llada").rglob("*.py"))
    return hashlib.sha256(b"".join([version("torch").encode(), *(path.read_bytes() for path in sources)])).digest()


def _digest(text: str) -> str:
    return hashlib.sha256(_library() + text.encode()).hexdigest()[:16]


def _cells(text: str) -> Iterator[Cell]:
    names: dict[str, Any] = {"__name__": "notebook"}
    done = 0
    for number, found in enumerate(CELL.finditer(text), start=1):
        yield Cell(text[done : found.start()].strip())
        printed, done = io.StringIO(), found.end()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(found[1], f"cell {number}", "exec"), names)
        yield Cell(found[1].strip(), True, printed.getvalue(), tuple(_drawn()))
    yield Cell(text[done:].strip())


def _drawn() -> Iterator[tuple[str, str]]:
    """The figures that are open, as Jupyter shows and closes them behind a cell."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        figure, written = plt.figure(number), io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
        title = figure.get_suptitle() or "; ".join(axes.get_title() for axes in figure.axes if axes.get_title())
        plt.close(figure)
        yield title, written.getvalue()


def page_of(cells: tuple[Cell, ...]) -> str:
    """The page with what its cells gave."""
    parts = []
    for cell in cells:
        parts.append(f"```python\n{cell.source}\n```" if cell.code else cell.source)
        if cell.printed:
            parts.append(f"```text\n{cell.printed.rstrip()}\n```")
        for title, svg in cell.pictures:
            parts.append(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})")
    return "\n\n".join(parts)


def notebook_of(cells: tuple[Cell, ...]) -> str:
    """The same as a Jupyter notebook, nbformat 4.5."""
    made: list[dict[str, Any]] = []
    for number, cell in enumerate(cells):
        kind = "code" if cell.code else "markdown"
        entry = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": cell.source}
        if cell.code:
            shown = [{"image/svg+xml": svg, "text/plain": title} for title, svg in cell.pictures]
            outputs: list[dict[str, Any]] = [{"output_type": "display_data", "data": d, "metadata": {}} for d in shown]
            if cell.printed:
                outputs.insert(0, {"output_type": "stream", "name": "stdout", "text": cell.printed})
            entry |= {"execution_count": None, "outputs": outputs}
        made.append(entry)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks to the files of the site; a hook of mkdocs."""
    from mkdocs.structure.files import File

    for page in [*files.documentation_pages()]:
        if page.src_uri.startswith(FOLDER):
            made = notebook_of(run(page.content_string))
            files.append(File.generated(config, page.src_uri.removesuffix(".md") + ".ipynb", content=made))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show what the cells gave, and where the notebook is; a hook of mkdocs."""
    source = page.file.src_uri
    if not source.startswith(FOLDER):
        return markdown
    name = source.removeprefix(FOLDER).removesuffix(".md") + ".ipynb"
    title, _, rest = page_of(run(page.file.content_string)).partition("\n")
    return f"{title}\n\n[Take it as a notebook]({name}){{ .md-button download }}\n{rest}"
