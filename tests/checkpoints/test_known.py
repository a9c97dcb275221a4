"""A checkpoint names classes, and nothing that it names is imported, is of another kind, or is without bounds."""

import json
import site
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.checkpoints.checkpoint import PARTS_KEY, read_checkpoint, stored_parts
from llada.checkpoints.known import known_class, trust, trusting
from llada.module import DiffusionLM
from tests.checkpoints.test_rebuild import MODELS

EVIL = (
    "from pathlib import Path\nPath('sprung').touch()\nfrom llada.samplers import NextToken\nclass X(NextToken): pass\n"
)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    model = MODELS["diffusion"]()
    return {"state_dict": model.state_dict(), PARTS_KEY: stored_parts(model)}


def write(content: dict[str, Any], path: Path, *place: Any, value: Any) -> Path:
    """A copy of the checkpoint with another value at a place of its parts."""
    torch.save(content, path)
    changed = torch.load(path, weights_only=True)
    inner = changed[PARTS_KEY]["parts"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(changed, path)
    return path


def package(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(EVIL)


def editable_install(project: Path, environment: Path) -> None:
    """What `pip install -e project` leaves in an environment."""
    info = environment / f"{project.name}-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project.name}\nVersion: 0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))


@pytest.mark.parametrize("place", ["sampler", "objective", "model"])
def test_a_module_beside_a_checkpoint_never_runs(
    content: dict[str, Any], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evilmod.py").write_text(EVIL)
    part = {"class_path": "evilmod.X", "init_args": {}}
    path = write(content, tmp_path / "cp.ckpt", "sampler" if place == "model" else place, value=part)
    if place == "model":
        torch.save(content | {PARTS_KEY: content[PARTS_KEY] | {"class_path": "evilmod.X"}}, path)
    with pytest.raises(ValueError, match=r"the class evilmod\.X isn't known; import it first .*--trust evilmod"):
        DiffusionLM.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=r"evilmod lies in the working directory .* it may have come with the checkp"):
        DiffusionLM.load_from_checkpoint(path, trust=["evilmod"])
    assert not (tmp_path / "sprung").exists()
    assert "evilmod" not in sys.modules


def test_a_project_that_is_installed_to_be_edited_may_lie_in_the_working_directory(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, environment = tmp_path / "work", tmp_path / "site"
    package(work / "project", "edited_parts")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work / "project")
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(environment)])
    part = {"class_path": "edited_parts.X", "init_args": {}}
    path = write(content, tmp_path / "cp.ckpt", "sampler", value=part)
    editable_install(work / "project", work)  # metadata that came along with the folder say nothing
    with pytest.raises(ValueError, match="edited_parts lies in the working directory"):
        DiffusionLM.load_from_checkpoint(path, trust=["edited_parts"])
    editable_install(work / "elsewhere", environment)
    with pytest.raises(ValueError, match="edited_parts lies in the working directory"):
        DiffusionLM.load_from_checkpoint(path, trust=["edited_parts"])
    assert "edited_parts" not in sys.modules
    editable_install(work / "project", environment)
    assert type(DiffusionLM.load_from_checkpoint(path, trust=["edited_parts"]).sampler).__name__ == "X"
    sys.modules.pop("edited_parts")


def test_a_package_that_is_trusted_by_name_is_imported(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    package(tmp_path / "installed", "trusted_parts")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    part = {"class_path": "trusted_parts.X", "init_args": {}}
    path = write(content, tmp_path / "cp.ckpt", "sampler", value=part)
    with pytest.raises(ValueError, match="--trust trusted_parts"):
        DiffusionLM.load_from_checkpoint(path)
    assert "trusted_parts" not in sys.modules
    model = DiffusionLM.load_from_checkpoint(path, trust=["trusted_parts"])
    assert type(model.sampler).__name__ == "X"
    assert DiffusionLM.load_from_checkpoint(path).sampler == model.sampler  # imported by now
    sys.modules.pop("trusted_parts")
    with pytest.raises(ValueError, match="--trust trusted_parts"):
        DiffusionLM.load_from_checkpoint(path)  # trust lasts for one call
    with pytest.raises(ValueError, match="there is no package nowhere_to_be_found"), trusting("nowhere_to_be_found"):
        known_class("nowhere_to_be_found.X")
    with pytest.raises(ValueError, match="takes the name of a package"):
        trust("../evil")


@pytest.mark.parametrize(
    "path",
    [
        "llada.__main__.x",
        "llada.samplers.__dict__.x",
        "llada.nowhere.X",
        "os.system",
        "builtins.eval",
        "llada",
        "",
        "a b.c",
        "llada.samplers.Sampler.__subclasses__",
        None,
        [],
        "x." * 5000,
    ],
)
def test_names_that_are_no_class(path: Any) -> None:
    assert known_class(path) is None


def test_classes_of_this_library_are_imported_where_they_are() -> None:
    assert known_class("llada.training.lr_schedulers.WarmupCosine").__name__ == "WarmupCosine"
    assert known_class("llada.DiffusionLM") is DiffusionLM
    assert known_class("torch.optim.AdamW") is torch.optim.AdamW


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def shared(depth: int) -> Any:
    """2^depth values in as many lists as deep."""
    value: Any = [0]
    for _ in range(depth):
        value = [value, value]
    return value


ARGS = "init_args"
DAMAGED = {
    "class path": (("sampler", "class_path"), [], r"parts\.sampler must have a class_path"),
    "arguments": (("sampler", ARGS), 1, r"parts\.sampler must have a class_path, a text, and init_args"),
    "nothing": (("sampler", ARGS, "rates"), None, r"parts\.sampler\.rates is None, but must be Rates"),
    "number": (("sampler", ARGS, "order"), 3, r"parts\.sampler\.order is 3, but must be Order"),
    "text": (("bound_draws",), "2", r"parts\.bound_draws is '2', but must be int"),
    "truth": (("seed",), True, r"parts\.seed is True, but must be int"),
    "list": (("backbone",), [], r"parts\.backbone is a list, but must be Module"),
    "dictionary": (("process",), {}, r"parts\.process is a dict, but must be Process"),
    "unknown argument": (("backbone", ARGS, "widht"), 3, r"parts\.backbone: .* has no argument 'widht'"),
    "other kind": (("sampler", ARGS, "order", "class_path"), "llada.samplers.Quota", r"sampler\.order: .* not a Order"),
    "deep": (("sampler",), nested(100), r"parts is nested more than 64 deep"),
    "shared": (("sampler",), shared(40), r"parts holds more than 100000 values"),
    "many": (("backbone", ARGS, "num_layers"), 9_999, r"makes more than \d+ parameters, but the file holds \d+"),
    "layers": (("backbone", ARGS, "num_layers"), 2**31, "num_layers must be a whole number from 1 to 10,000"),
    "width": (("backbone", ARGS, "width"), 2**16, r"describes parts that make .* of the shape"),
    "refused": (("backbone", ARGS, "num_heads"), 3, r"parts\.backbone: .*must divide num_heads=3"),
    "zero": (("backbone", ARGS, "num_heads"), 0, r"parts\.backbone: .* refuses its stored arguments"),
    "sampler": (("sampler", ARGS, "amount", ARGS, "steps"), -1, r"parts\.sampler\.amount: .* refuses its stored"),
}


@pytest.mark.parametrize(("place", "value", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_wrong_in_the_parts_is_named(
    content: dict[str, Any], place: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    path = write(content, tmp_path / "cp.ckpt", *place, value=value)
    with pytest.raises(ValueError, match=message) as error:
        DiffusionLM.load_from_checkpoint(path)
    assert "cp.ckpt" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("class_path", []),
        ("class_path", None),
        ("parts", []),
        ("parts", {1: 2}),
        ("tokenizer", 3),
        ("tokenizer_files", {"a": b"x"}),
        ("tokenizer_files", {"a": torch.zeros(2)}),
    ],
)
def test_entries_of_another_type_are_named(content: dict[str, Any], entry: str, value: Any, tmp_path: Path) -> None:
    torch.save(content | {PARTS_KEY: content[PARTS_KEY] | {entry: value}}, tmp_path / "cp.ckpt")
    with pytest.raises(ValueError, match=rf"cp\.ckpt is damaged: its entry '{entry}' isn't what this library writes"):
        read_checkpoint(tmp_path / "cp.ckpt")


def test_weights_of_another_model_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    weights = dict(content["state_dict"])
    name, tensor = weights.popitem()
    torch.save(content | {"state_dict": weights | {name: tensor[:1]}}, tmp_path / "cp.ckpt")
    with pytest.raises(ValueError, match=rf"describes parts that make {name} of the shape"):
        DiffusionLM.load_from_checkpoint(tmp_path / "cp.ckpt")
    torch.save(content | {"state_dict": weights}, tmp_path / "cp.ckpt")
    with pytest.raises(ValueError, match=r"holds the weights of another model: .*missing, the first"):
        DiffusionLM.load_from_checkpoint(tmp_path / "cp.ckpt")
    torch.save(content | {"state_dict": {"a": 1}}, tmp_path / "cp.ckpt")
    with pytest.raises(ValueError, match="its entry 'state_dict' isn't what"):
        DiffusionLM.load_from_checkpoint(tmp_path / "cp.ckpt")
