"""Every public class that a user builds is shown at work in its docstring, by lines that run as they are.

pytest runs them where it collects ``llada/`` (``--doctest-modules``), with all that their module knows at hand; here it
is asked that they need nothing but what they import. Left out are classes that are handed over and not built: abstract
ones, which docs/extending.md is about, enumerations, errors, named tuples, and those of `RECEIVED`.
"""

import ast
import builtins
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

import llada

ROOT = Path(__file__).parents[1]
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

RECEIVED = {
    "llada.noise": "NoiseSchedule",
    "llada.objectives": "Draw Lesson ObjectiveOutput",
    "llada.process": "Edit",
    "llada.samplers": "Asked Change Part State Step",
}
WITHOUT = {
    "llada.heads": "CutCrossEntropy",  # can't even be built without its package and a GPU
    "llada.training.callbacks": "FrozenReference LoRA LossSpike SaveAtEnd",  # nothing to see without a whole training
}
"""These are named on a page instead."""


def public_classes() -> Iterator[tuple[str, type]]:
    """Package and class, each class once, at the deepest package that exports it."""
    home: dict[type, str] = {}
    packages = ["llada", *(m.name for m in pkgutil.walk_packages(llada.__path__, "llada.") if m.ispkg)]
    for package in sorted(packages, key=lambda name: name.count(".")):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            if inspect.isclass(getattr(module, name)):
                home[getattr(module, name)] = package
    yield from ((package, each) for each, package in home.items())


def is_built(each: type) -> bool:
    kept = inspect.isabstract(each) or issubclass(each, Enum | BaseException | tuple)
    return not kept and not getattr(each, "_is_protocol", False)


def example(each: type) -> doctest.DocTest | None:
    """The lines of a class's own docstring, to be run with nothing but what they import."""
    found = doctest.DocTestParser().get_doctest(each.__dict__.get("__doc__") or "", {}, each.__name__, None, None)
    return found if found.examples else None


BUILT = [(package, each) for package, each in public_classes() if is_built(each)]
EXAMPLES = [found for _, each in BUILT if (found := example(each)) is not None]


def test_every_class_has_an_example() -> None:
    without: dict[str, list[str]] = {}
    for package, each in BUILT:
        if example(each) is None and each.__name__ not in RECEIVED.get(package, "").split():
            without.setdefault(package, []).append(each.__name__)
    assert {package: " ".join(sorted(names)) for package, names in without.items()} == WITHOUT
    assert all(re.search(rf"\b{name}\b", PAGES) for names in WITHOUT.values() for name in names.split())


@pytest.mark.parametrize("shown", EXAMPLES, ids=lambda shown: shown.name)
def test_an_example_imports_what_it_uses(shown: doctest.DocTest) -> None:
    assert "Examples:\n" in (shown.docstring or "")  # what the site shows as code
    names = [node for line in shown.examples for node in ast.walk(ast.parse(line.source))]
    bound = {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in names if isinstance(node, ast.arg)}
    bound |= {node.name for node in names if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in names if isinstance(node, ast.Import | ast.ImportFrom)]
    bound |= {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    used = {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used <= bound | set(vars(builtins))
    assert shown.name in used
