"""What texts point at is there: links and anchors, files, dotted names, classes; in pages, docstrings and examples."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.test_documented_commands import READERS_OWN

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "benchmarks", ".github", "llada")
PAGES = sorted(chain(ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in FOLDERS)))
CODE = sorted(
    chain(*((ROOT / folder).rglob("*.py") for folder in ("llada", "examples", "benchmarks", "tests", "docs")))
)
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
URL = re.compile(r"https?://[^\s)>\]\"'`,|]+")
FILE = re.compile(r"(?:\.\./)*(?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|yml|md|json|svg|png|css|toml|sbatch)(?::(\d+))?")
DOTTED = re.compile(r"\b(llada(?:\.\w+)+)(?:\(\))?")
CLASS = re.compile(r"(?:[A-Z][a-z0-9]+){2,}|[A-Z]{2,}[a-z]\w+")
WRITTEN_BY_A_RUN = re.compile(
    r"(?:demo|runs|checkpoints|lightning_logs|token_cache|shards|site)/|.*(?:FOLDER|NAME|RUN|yours)"
)
NO_NAMES = {"llada.draft", "llada.calls", "llada.tokens_per_call"}  # fields of the answers of `llada serve`


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


@cache
def anchors(page: Path) -> set[str]:
    """Of the headings, as the site and GitHub make them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "", title)).strip().lower()
        found |= {re.sub(r"[-\s]+", "-", plain), re.sub(r"\s", "-", plain)}
    return found


def is_there(dotted: str) -> bool:
    """Whether a dotted name can be imported, or is an attribute of something that can."""
    words = dotted.split(".")
    for length in range(len(words), 0, -1) if words[0] == "llada" else ():
        try:
            found = import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for number, word in enumerate(words[length:], start=length):
            fields = getattr(found, "__annotations__", {})
            if not hasattr(found, word):
                source = text_of(Path(import_module(found.__module__).__file__)) if isinstance(found, type) else ""
                return number == len(words) - 1 and (word in fields or f"self.{word}" in source)
            found = getattr(found, word)
        return True
    return False


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for target in LINK.findall(SPAN.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if path.endswith(".ipynb"):
            path = path.removesuffix("ipynb") + "md"
        whole = (page.parent / path) if path else page
        by_name = whole.suffix != ".md" or is_there(anchor)
        if not whole.exists() or not (not anchor or by_name or anchor in anchors(whole)):
            yield target


def missing_files(text: str, beside: Path) -> Iterator[str]:
    """Paths between backquotes that aren't in the repository, or have fewer lines."""
    for span in SPAN.findall(text):
        if not (found := FILE.fullmatch(span)) or WRITTEN_BY_A_RUN.match(span) or span in READERS_OWN:
            continue
        path = span.partition(":")[0]
        there = [base / path for base in (ROOT, beside, ROOT / "llada", ROOT / "docs") if (base / path).exists()]
        if not there or (found[1] and int(found[1]) > text_of(there[0]).count("\n")):
            yield span


@cache
def words() -> frozenset[str]:
    """All identifiers of the code."""
    return frozenset(re.findall(r"[A-Za-z_]\w*", "\n".join(re.sub(r"`[^`\n]*`", "", text_of(path)) for path in CODE)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    text = prose(page)
    assert not [*broken_links(page)]
    if page.name == "CHANGELOG.md":  # it may name what is gone
        return
    assert not [*missing_files(text, page.parent)]
    spans = SPAN.findall(text)
    assert not [name for span in spans for name in DOTTED.findall(span) if not (name in NO_NAMES or is_there(name))]
    if page.name != "glossary.md":  # its last column has the words that aren't used
        assert not [span for span in spans if CLASS.fullmatch(span) and span not in words()]


@pytest.mark.parametrize("folder", ["llada", "examples", "benchmarks"])
def test_what_code_points_at_is_there(folder: str) -> None:
    for path in (path for path in CODE if path.is_relative_to(ROOT / folder)):
        text = text_of(path)
        assert not [*missing_files(text, path.parent)], path
        names = {name for span in SPAN.findall(text) for name in DOTTED.findall(span)}
        assert not [name for name in names if not is_there(name)], path


def test_absolute_links_are_well_formed() -> None:
    for path in [*PAGES, *CODE]:
        for found in (url for url in URL.findall(text_of(path)) if "{" not in url):
            parts = urlsplit(found.rstrip(".;:"))
            host = re.fullmatch(r"(?:[\w-]+\.)+[a-z]{2,}|localhost|[\d.]+", parts.hostname or "")
            assert host or path.suffix == ".py", (path, found)  # code may hold the beginning of one
            if parts.hostname == "arxiv.org":
                assert re.fullmatch(r"/(?:abs|pdf)/\d{4}\.\d{4,5}(?:v\d+)?", parts.path), (path, found)
        for number in re.findall(r"arXiv:? ?(\d[\w.]*\d)", text_of(path)):
            assert re.fullmatch(r"[012]\d(?:0[1-9]|1[0-2])\.\d{4,5}(?:v\d+)?", number), (path, number)


@pytest.mark.parametrize(
    "broken",
    ["[a](nowhere.md)", "[a](../README.md#nowhere)", "`llada/nowhere.py`", "`llada/rows.py:9000`",
     "`llada.rows.nowhere`", "`NowhereClass`"],
)  # fmt: skip
def test_what_is_not_there_is_found(tmp_path: Path, broken: str) -> None:
    page = ROOT / "docs" / "broken.md"
    found = [*missing_files(broken, page.parent)]
    found += [name for name in DOTTED.findall(broken) if not is_there(name)]
    found += [
        span for span in SPAN.findall(broken) if CLASS.fullmatch(span) and span not in words() and "/" not in span
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Here\n")
    copy = tmp_path / "docs" / "page.md"
    copy.write_text(broken)
    assert [*broken_links(copy)] or found
