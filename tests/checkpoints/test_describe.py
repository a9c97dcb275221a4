"""Parts as plain data: under their public names, complete, or refused before anything is trained."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import llada.samplers
from llada.backbones import BidirectionalTransformer
from llada.checkpoints.describe import build, check_describable, describe, public_path
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import Blocks, Quota, Sampler, UnmaskingSampler
from llada.training.lr_schedulers import WarmupCosine


def model(**parts: Any) -> DiffusionLM:
    backbone = BidirectionalTransformer(12, width=16, num_layers=1, num_heads=2)
    return DiffusionLM(backbone, MaskingProcess(11), **parts)


def test_classes_go_by_the_name_that_users_import() -> None:
    assert public_path(UnmaskingSampler) == "llada.samplers.UnmaskingSampler"
    assert public_path(DiffusionLM) == "llada.DiffusionLM"
    assert public_path(WarmupCosine) == "llada.training.lr_schedulers.WarmupCosine"  # no package exports it
    assert public_path(nn.Linear) == "torch.nn.Linear"
    assert describe(partial(torch.optim.AdamW, lr=0.1)) == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}
    described = describe(UnmaskingSampler(Quota(3), window=Blocks(2)))
    assert described["init_args"]["amount"]["class_path"] == "llada.samplers.Quota"
    assert build(described, Sampler) == UnmaskingSampler(Quota(3), window=Blocks(2))


def test_every_exported_class_goes_by_its_export() -> None:
    classes = {name: value for name, value in vars(llada.samplers).items() if isinstance(value, type)}
    assert len(classes) > 20
    for name, cls in classes.items():
        assert public_path(cls) in (f"llada.samplers.{name}", f"llada.{name}")


def test_a_package_of_ones_own_may_move_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, file in enumerate(("first_place", "second_place")):
        package = tmp_path / f"mine{number}"
        package.mkdir()
        (package / "__init__.py").write_text(f"from mine{number}.{file} import Part\n")
        (package / f"{file}.py").write_text("class Part:\n    def __init__(self, size=3):\n        self.size = size\n")
        monkeypatch.syspath_prepend(tmp_path)
        part = __import__(f"mine{number}").Part(5)
        assert describe(part) == {"class_path": f"mine{number}.Part", "init_args": {"size": 5}}
        assert build(describe(part), type(part)).size == 5


class Outer:
    """A class in a class has a path, too."""

    @dataclass(frozen=True)
    class Inner:
        size: int = 1


class Base(nn.Module):
    def __init__(self, width: int, depth: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.width, self.depth = width, depth


class Derived(Base):
    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = name


def test_arguments_that_are_handed_on_are_kept() -> None:
    described = describe(Derived("a", 3, depth=(4, 5)))
    assert described["init_args"] == {"name": "a", "width": 3, "depth": [4, 5]}
    again = build(described, Base)
    assert (type(again), again.name, again.width, again.depth) == (Derived, "a", 3, (4, 5))
    assert build(describe(Outer.Inner(7)), Outer.Inner) == Outer.Inner(7)


class Forgetful(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.double = 2 * rate


class Keeps(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


REFUSED = {
    "not stored": (lambda: Forgetful(0.1), r"Forgetful doesn't store .* 'rate' .* set self\.rate = rate"),
    "deep inside": (lambda: Keeps([Keeps({"a": Forgetful(0.1)})]), r"set self\.rate = rate"),
    "function": (lambda: Keeps(lambda x: x), "can't describe the function .*; use a class, or functools.partial of a"),
    "method": (lambda: Keeps(Forgetful(0.1).forward), "can't describe the function"),
    "partial of a function": (lambda: Keeps(partial(max, 1)), "it isn't a partial of a class"),
    "set": (lambda: Keeps(frozenset({1, 2})), r"can't describe frozenset\(\{1, 2\}\); parts are made of plain data"),
    "path": (lambda: Keeps(Path("a")), "can't describe .*Path"),
}


@pytest.mark.parametrize(("backbone", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_rebuilt_is_refused_before_training(backbone: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_describable(DiffusionLM(backbone(), MaskingProcess(1)))


def test_the_librarys_own_parts_pass() -> None:
    check_describable(model())
    check_describable(model(sampler=UnmaskingSampler(Quota(3)), lr_scheduler=partial(WarmupCosine, warmup_steps=2)))
