"""What a checkpoint says is data: no code that comes with one runs, and only data are downloaded."""

import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.module import DiffusionLM
from tests.golden_models import GOLDEN, arrays

CHECKPOINT = GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt"


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llada-tiny/checkpoint", tmp_path / "copy")
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w').close()"
    for name in ("configuration_llada.py", "modeling_llada.py", "tokenization_llada.py"):
        (tmp_path / "copy" / name).write_text(trap)
    model = DiffusionLM.from_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy/modeling_llada.py").read_text() == trap  # kept for whoever trusts it
    assert not (tmp_path / "sprung").exists()


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **content: Any) -> None:
    """Make a module of a package that isn't installed."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or types.ModuleType(name))
    for name, value in content.items():
        value.__module__ = module
        setattr(sys.modules[module], name, value)


class AnyNode:
    def __init__(self, value: Any) -> None:
        self._val, self._parent, self._flags_cache = value, None, None


class DictConfig:
    def __init__(self, content: dict[str, Any]) -> None:
        wrapped = {k: DictConfig(v) if isinstance(v, dict) else AnyNode(v) for k, v in content.items()}
        self.__dict__.update(_content=wrapped, _metadata=None)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("code of the checkpoint's own has run")


def make_tokenizer(content: bytes) -> Any:
    raise AssertionError("code of the checkpoint's own has run")


class Tokenizer:
    def __reduce__(self) -> Any:
        return make_tokenizer, (b"merges",)


def test_settings_and_tokenizer_are_read_without_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file as the official code writes it, with OmegaConf's settings and a pickled tokenizer."""
    stored = torch.load(CHECKPOINT, weights_only=True)
    with monkeypatch.context() as patch:
        stand_in(patch, "omegaconf_.dictconfig", DictConfig=DictConfig)
        stand_in(patch, "omegaconf_.nodes", AnyNode=AnyNode)
        stand_in(patch, "tokenizers_", make_tokenizer=make_tokenizer, Tokenizer=Tokenizer)
        settings = DictConfig(stored["hyper_parameters"]["config"])
        stored["hyper_parameters"] = {"config": settings, "tokenizer": Tokenizer()}
        torch.save(stored, tmp_path / "official.ckpt")
        model = DiffusionLM.from_pretrained(tmp_path / "official.ckpt")  # they could be imported, and aren't
    again = DiffusionLM.from_pretrained(tmp_path / "official.ckpt")
    assert "omegaconf_" not in sys.modules
    expected = DiffusionLM.from_pretrained(CHECKPOINT)
    golden = arrays("mdlm-dit-tiny/lightning", "expected")
    for loaded in (model, again):
        assert loaded.process == expected.process
        assert loaded.pretrained_config == expected.pretrained_config
        assert torch.equal(loaded(golden["ids"]), expected(golden["ids"]))


class Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("where", ["tokenizer", "config"])
@pytest.mark.parametrize(
    "attack",
    [
        lambda path: Calls(os.mkdir, path),
        lambda path: Calls(os.system, f"touch {path}"),
        lambda path: Calls(eval, f"open({path!r}, 'w')"),
        lambda path: Calls(exec, f"open({path!r}, 'w')"),
        lambda path: Calls(open, path, "w"),
        lambda path: Calls(shutil.copytree, "/etc", path),
        lambda path: Calls(torch.save, {}, path),
    ],
)
def test_a_checkpoint_cannot_call_functions(attack: Callable[[str], Any], where: str, tmp_path: Path) -> None:
    stored = torch.load(CHECKPOINT, weights_only=True)
    sprung = tmp_path / "sprung"
    stored["hyper_parameters"][where] = attack(str(sprung))
    torch.save(stored, tmp_path / "attack.ckpt")
    try:
        DiffusionLM.from_pretrained(tmp_path / "attack.ckpt")
    except ValueError:
        pass  # refused; or loaded with an inert thing in place of a tokenizer
    else:
        assert where == "tokenizer"
    assert not sprung.exists()


def test_no_pickles_are_downloaded_and_code_only_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra hf isn't installed")
    asked: list[tuple[str, Any, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(GOLDEN / "llada-tiny/checkpoint")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    model = DiffusionLM.from_pretrained("GSAI-ML/LLaDA-8B-Base", revision="abc")
    assert model.process.mask_token_id == 380
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("GSAI-ML/LLaDA-8B-Base", "abc")
    repository = ["modeling_llada.py", "README.md", "LICENSE", "model.safetensors", "config.json", "merges.txt"]
    pickles = ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl", "model.gguf", "x.npz"]
    wanted = {name for name in [*repository, *pickles] if any(fnmatch(name, pattern) for pattern in patterns)}
    assert wanted == set(repository)
    assert "modeling_llada" not in sys.modules
    (tmp_path / "GSAI-ML").mkdir()
    shutil.copytree(GOLDEN / "dream-tiny/checkpoint", tmp_path / "GSAI-ML/LLaDA-8B-Base")
    assert DiffusionLM.from_pretrained("GSAI-ML/LLaDA-8B-Base").backbone.shift  # a folder comes first
    assert len(asked) == 1


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra hf isn't installed")

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder my/model here, and the hub didn't give it: no net"):
        DiffusionLM.from_pretrained("my/model")


def test_without_the_hub_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=r"there is no folder my/model; .*pip install llada\[hf\]"):
        DiffusionLM.from_pretrained("my/model")


def test_the_configuration_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llada-tiny/checkpoint", tmp_path / "copy")
    (tmp_path / "copy/model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.transformer.wte.weight": str(tmp_path / "elsewhere.safetensors")}}
    (tmp_path / "copy/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="which isn't in the folder; refusing it"):
        DiffusionLM.from_pretrained(tmp_path / "copy")
