"""One owner per fact: the code that knows a fact stands in one room, and a second copy fails here."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import llada

PACKAGE = Path(llada.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

# Fact -> how code that works it out looks, the rooms that own it, and a line that must be found (so that the search
# can't go blind).
FACTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "where a segment begins": (
        r"\[:, 1:\] != \w+\[:, :-1\]",
        ("rows.py",),
        "starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]",
    ),
    "padding in front of a row": (
        r"cumsum\(1\) == 0\)\.sum\(",
        ("rows.py",),
        "return (attention_mask.long().cumsum(1) == 0).sum(1, keepdim=True)",
    ),
    "which block a position is in": (
        r"// (self\.)?block_length",
        ("rows.py", "samplers/", "backbones/attention/block_causal.py"),
        "x // block_length",
    ),
    "which tokens are masks": (
        r"== (\w+\.)*mask_token_id\b",
        ("process/", "data/", "text/"),
        "tokens == self.mask_token_id",
    ),
    "the weight of a bound": (r"\.loss_weight\(", ("noise/", "process/", "samplers/rates/"), "schedule.loss_weight(t)"),
    "replacing a file": (r"\bos\.(replace|rename)\(", ("files/",), "os.replace(a, b)"),
    "reading JSON": (r"\bjson\.loads?\(", ("files/",), "json.load(file)"),
    "whether a model is autoregressive": (
        r"isinstance\([^)]*(AutoregressiveLM|NextTokens?)\b",
        ("autoregressive.py",),
        "isinstance(model, AutoregressiveLM)",
    ),
    "which positions of a window aren't given": (
        r"\[:, : \w+\.start\] = False",
        ("samplers/state.py",),
        "inside[:, : self.start] = False",
    ),
    "what a loop begins with": (
        r"\bState\.begin\(",
        ("samplers/from_state.py", "samplers/sampler.py", "samplers/steered.py", "samplers/length/until_stop.py"),
        "state = State.begin(process, tokens, given, random)",
    ),
    "reading a checkpoint": (r"\btorch\.load\(", ("checkpoints/",), "torch.load(path)"),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_has_one_owner(fact: str) -> None:
    pattern, rooms, example = FACTS[fact]
    assert re.search(pattern, example), "the search is blind"
    found = [
        f"{file}:{number} {line.strip()}"
        for file, source in SOURCES.items()
        if not file.startswith(rooms)
        for number, line in enumerate(source.splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, f"{fact} is known in {' and '.join(rooms)}: ask there"


@pytest.mark.parametrize("fact", FACTS)
def test_the_owner_exists(fact: str) -> None:
    _, rooms, _ = FACTS[fact]
    for room in rooms:
        assert (PACKAGE / room).exists(), room


def test_the_top_of_the_package_is_the_spine() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert files <= {
        "__init__.py",
        "__main__.py",
        "arguments.py",
        "autoregressive.py",
        "built.py",
        "denoiser.py",
        "inference.py",
        "module.py",
        "random.py",
        "rows.py",
    }


@cache
def nodes_of(source: str) -> list[ast.AST]:
    """All nodes of a file, which is parsed once."""
    return list(ast.walk(ast.parse(source)))


def docstrings(source: str) -> list[str]:
    nodes = [n for n in nodes_of(source) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module)]
    return [ast.get_docstring(node) or "" for node in nodes]


def test_no_docstring_only_points_elsewhere() -> None:
    empty = [
        file for file, source in SOURCES.items() for text in docstrings(source) if re.match(r"See `[^`]+`[.;]", text)
    ]
    assert not empty, "mark the method with @override and leave the docstring out"


def test_no_function_is_longer_than_a_page() -> None:
    """Forty lines without the docstring."""
    long = []
    for file, source in SOURCES.items():
        for node in nodes_of(source):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                if length > 40:
                    long.append(f"{file}:{node.lineno} {node.name} ({length})")
    assert not long


GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"


def glossary() -> list[tuple[str, list[str]]]:
    """Each word, and the words that are not used for the same thing."""
    rows = [line.strip("| \n").split("|") for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if "|" in line]
    words = [[cell.strip() for cell in row] for row in rows[2:]]
    return [(row[0].strip("`"), re.findall(r"`(\w+)`", row[2]) if len(row) > 2 else []) for row in words]


@cache
def names_in(source: str) -> set[str]:
    """Names of classes, functions, arguments and attributes that the file defines."""
    found = set()
    for node in nodes_of(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def test_the_glossary_has_every_word_once() -> None:
    words = [word for word, _ in glossary()]
    assert len(words) > 25
    assert len(words) == len(set(words))
    assert words == sorted(words, key=str.lower)
    assert {"order", "position", "column", "design", "scored"} <= set(words)


@pytest.mark.parametrize("word", sorted({other for _, others in glossary() for other in others}))
def test_a_word_that_the_glossary_replaces_is_no_name(word: str) -> None:
    assert not [file for file, source in SOURCES.items() if word in names_in(source)]
