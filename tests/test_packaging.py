"""The wheel that a user installs: everything is in it, and it imports where nothing optional is installed."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import llada
from tests.processes import run_python

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, BUILD = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]

# Runs in its own process, which has imported torch, Lightning and our own source tree before: forgets the last, refuses
# every optional package, whether it is installed or not, then imports what it is told.
IMPORT_WITHOUT_EXTRAS = """
import builtins, importlib, sys

folder, optional, modules = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")

for name in [name for name in sys.modules if name.partition(".")[0] == "llada"]:
    del sys.modules[name]
plain_import = builtins.__import__

def careful_import(name, globals=None, locals=None, fromlist=(), level=0):
    # Ours must do without; what others do with packages that they find installed is their business.
    if globals and str(globals.get("__name__")).startswith("llada") and name.partition(".")[0] in optional:
        raise ModuleNotFoundError(f"No module named {name!r} (refused by the test)", name=name)
    return plain_import(name, globals, locals, fromlist, level)

builtins.__import__ = careful_import
sys.path.insert(0, folder)
for module in modules:
    loaded = importlib.import_module(module)
    assert loaded.__file__.startswith(folder), loaded.__file__
import llada
for name in llada.__all__:
    getattr(llada, name)
print(len(modules), "modules")
"""


def distribution_names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].lower().replace("-", "_") for requirement in requirements}


def source_files() -> set[str]:
    package = ROOT / "llada"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def modules_in(names: set[str]) -> list[str]:
    python = (Path(name).with_suffix("").parts for name in names if name.endswith(".py"))
    return sorted(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in python)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_source_tree_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    configurations = {name for name in packed if name.startswith("llada/configs/")}
    assert packed - configurations == source_files()
    assert "llada/py.typed" in packed
    examples = ROOT / "examples" / "configs"
    assert configurations == {f"llada/configs/{path.relative_to(examples)}" for path in examples.rglob("*.yaml")}


def test_an_installed_wheel_gives_its_configurations(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.'); from llada.cli import main; main()"]
    run = subprocess.run([*command, "config", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (ROOT / "examples/configs/demo.yaml").read_text(encoding="utf-8")


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        licence = archive.read(name.replace("METADATA", "licenses/LICENSE")).decode()
    assert f"Version: {llada.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Apache License" in licence
    assert "Description-Content-Type: text/markdown\n" in metadata
    assert "\n# llada\n" in metadata  # the README is the long description
    assert ("Project-URL: " in metadata) == bool(BUILD["metadata"]["hooks"]["custom"]["repository"])


def module_at(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"built_from_{path.stem}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metadata_for(repository: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    module_at(ROOT / "hatch_build.py").ProjectLinks(str(ROOT), {"repository": repository}).update(metadata)
    return metadata


def test_a_release_with_an_address_has_links_that_work_anywhere() -> None:
    address = "https://code.example/somebody/llada"
    found = metadata_for(address + "/")
    assert found["urls"]["Source"] == address
    assert found["urls"]["Issues"] == f"{address}/issues"
    links = re.findall(r"\]\(([^)]+)\)", found["readme"]["text"])
    ours = [link.removeprefix(address) for link in links if link.startswith(address)]
    assert len(ours) > 30
    assert all(link.startswith(("https://", "#")) for link in links)
    for link in ours:
        kind, place = re.match(r"/(blob|raw)/main/([^#]+)", link).groups()
        assert (ROOT / place).is_file()
        assert (kind == "raw") == place.endswith(".png")  # an image is shown, not its page


def test_a_release_without_an_address_has_no_links_and_the_readme_as_it_is() -> None:
    assert metadata_for("") == {
        "urls": {},
        "readme": {"content-type": "text/markdown", "text": (ROOT / "README.md").read_text(encoding="utf-8")},
    }


@pytest.mark.parametrize("wrong", ["github.com/somebody/llada", "https://github.com/", "git@github.com:a/llada", "x"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="like https://github"):
        metadata_for(wrong)


@pytest.mark.parametrize("address", ["", "https://code.example/somebody/llada"])
def test_the_site_links_to_the_same_address(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = module_at(ROOT / "docs/repository.py")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(re.sub(r'(?m)^repository = "[^"]*"', f'repository = "{address}"', text))
    monkeypatch.setattr(hook, "ROOT", tmp_path)
    config = hook.on_config(SimpleNamespace(theme={"features": []}, extra={}, repo_url=None))
    assert config.theme["features"] == (["content.action.edit"] if address else [])
    assert [each["link"] for each in config.extra.get("social", [])] == [address] * bool(address)
    assert config.repo_url is None  # the theme would ask the host for stars whenever a page is read
    written, made = (SimpleNamespace(file=SimpleNamespace(edit_uri=uri), edit_url=None) for uri in ("duel.md", None))
    for page in (written, made):
        hook.on_page_context({}, page, config)
    assert (written.edit_url, made.edit_url) == (f"{address}/edit/main/docs/duel.md" if address else None, None)


def test_the_citation_names_the_address_as_soon_as_there_is_one() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    stated = re.search(r"(?m)^repository-code: \"?([^\s\"]+)", citation)
    assert (stated[1] if stated else "") == BUILD["metadata"]["hooks"]["custom"]["repository"]


def test_wheel_imports_with_the_core_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    modules = modules_in(source_files())
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    # By import name: the ones that differ from their distribution's name are spelt out.
    optional = distribution_names(extras) - {"llada"} | {"flash_attn", "flash_attn_interface"}
    run = run_python("-c", IMPORT_WITHOUT_EXTRAS, tmp_path, ",".join(optional), ",".join(modules), cwd=tmp_path)
    assert run.returncode == 0, run.output
    assert run.output.strip() == f"{len(modules)} modules"


def test_command_line_entry_point_leads_somewhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "llada = llada.cli:main\n" in archive.read(name).decode()
    assert callable(EntryPoint("llada", "llada.cli:main", "console_scripts").load())


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    extras = PROJECT["optional-dependencies"]
    # cut-cross-entropy is for those who ask; its pin would be untested.
    chosen = ("completion", "demo", "eval", "hf", "peft", "regex", "docs", "dev")
    installed = [*PROJECT["dependencies"], *(requirement for name in chosen for requirement in extras[name])]
    assert distribution_names(installed) - {"llada"} <= distribution_names(pins)
    # Beside a CPU build of torch, PyPI's torchvision breaks `import torchmetrics`; litdata brings it.
    assert not {"torchvision", "litdata"} & distribution_names(pins + installed)
