"""Parts as plain data: under their public names, complete, or refused before anything is trained."""

import enum
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import llada.samplers
from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import stored_parts
from llada.checkpoints.copies import check_describable
from llada.checkpoints.describe import build, describe, public_path
from llada.module import DiffusionLM
from llada.objectives import NELBO, llada_finetuning
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


class Colour(enum.Enum):
    RED = 1


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
    "enumeration": (lambda: Keeps(Colour.RED), "can't describe <Colour.RED: 1>; keep enumerations as text or numbers"),
    "path": (lambda: Keeps(Path("a")), r"can't describe .*Path\('a'\); keep paths as text, str\(path\)"),
}


@pytest.mark.parametrize(("backbone", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_rebuilt_is_refused_before_training(backbone: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_describable(DiffusionLM(backbone(), MaskingProcess(1)))


def test_the_librarys_own_parts_pass() -> None:
    check_describable(model())
    check_describable(model(sampler=UnmaskingSampler(Quota(3)), lr_scheduler=partial(WarmupCosine, warmup_steps=2)))


class HandsOn(DiffusionLM):
    """As a user writes it: arguments of one's own, and the parent's by ``**kwargs``."""

    def __init__(self, backbone: nn.Module, process: MaskingProcess, extra: int = 3, **kwargs: Any) -> None:
        super().__init__(backbone, process, **kwargs)
        self.extra = extra


class HandsAllOn(HandsOn):
    def __init__(self, *args: Any, other: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.other = other


class ByPlace(DiffusionLM):
    def __init__(this, backbone, process, *args, extra=3):
        super().__init__(backbone, process, *args)
        this.extra = extra


DEFAULT = NELBO()


class Bare(DiffusionLM):
    def __init__(self, backbone, process, objective=DEFAULT):
        super().__init__(backbone, process, objective)


class Heir(HandsAllOn):
    pass


class NoneByDefault(DiffusionLM):
    """With annotations as many write them, and a number that equals nothing."""

    def __init__(self, backbone: nn.Module, process: MaskingProcess, size: int = None, rate: float = 0.0) -> None:  # noqa: RUF013
        super().__init__(backbone, process)
        self.size, self.rate = size, rate


class Size:
    def __init__(self, width=4):
        self.width = width


class Sized(nn.Module):
    """Takes a configuration without saying of which class."""

    def __init__(self, config, /, bias=True):
        super().__init__()
        self.config, self.bias = config, bias
        self.out = nn.Linear(config.width, 12, bias=bias)


class TwoLayers(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Embedding(12, width), nn.Linear(width, 12))
        self.width = width


LIST = nn.Sequential(nn.Embedding(12, 8, padding_idx=0), nn.LayerNorm(8), nn.GELU("tanh"), nn.Linear(8, 12, bias=False))
OPTIMIZER = partial(torch.optim.AdamW, lr=3e-3)
PROCESS = MaskingProcess(11)
KEPT = {
    "kwargs": lambda: HandsOn(TwoLayers(8), PROCESS, 5, objective=llada_finetuning(), seed=7, optimizer=OPTIMIZER),
    "args and kwargs": lambda: HandsAllOn(TwoLayers(8), PROCESS, 7, seed=7, other=4, optimizer=OPTIMIZER),
    "inherited": lambda: Heir(TwoLayers(8), PROCESS, extra=7, bound_draws=2, other=4),
    "args, self by another name": lambda: ByPlace(TwoLayers(8), PROCESS, llada_finetuning(), None, 2, extra=5),
    "no annotations": lambda: Bare(Sized(Size(6), bias=False), PROCESS, llada_finetuning()),
    "None against the annotation": lambda: NoneByDefault(TwoLayers(8), PROCESS, rate=float("inf")),
    "a list of torch's modules": lambda: DiffusionLM(LIST, PROCESS),
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_every_argument_of_a_subclass_comes_back(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = make()
    check_describable(saved)
    torch.save({"state_dict": saved.state_dict(), "llada": stored_parts(saved)}, tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert type(again) is type(saved)
    assert stored_parts(again) == stored_parts(saved)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in saved.state_dict().items())


class Doubles(nn.Module):
    """Stores another value under the name of its argument, so that a copy would have other weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = 2 * width
        self.out = nn.Linear(self.width, 3)


class Halves(DiffusionLM):
    """Stores another value, which nothing of its weights tells."""

    def __init__(self, backbone: nn.Module, process: MaskingProcess, scale: float = 1.0, words: Any = ()) -> None:
        super().__init__(backbone, process)
        self.scale, self.words = scale / 2, words
        if isinstance(words, list):
            words.append("more")


class Hides(DiffusionLM):
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "bias" not in name}


class Rate(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate / 2


class Pair(nn.Module):
    def __init__(self, width: int, tie: bool) -> None:
        super().__init__()
        self.width, self.tie = width, tie
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        if tie:
            self.second.weight = self.first.weight


def changed(part: Pair, tie: bool) -> Pair:
    part.second.weight = part.first.weight if tie else nn.Parameter(part.first.weight.detach().clone())
    return part


def with_more(part: nn.Module) -> nn.Module:
    part.more = nn.Linear(2, 2)
    return part


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Halves(TwoLayers(4), PROCESS, scale=4.0),
            r"scale would come back as another .*was 2.0, then 1",
        ),
        (
            lambda: Halves(TwoLayers(4), PROCESS, 0.0, ["a"]),
            r"words would come back as another .*keep the .* self\.words",
        ),
        (lambda: DiffusionLM(Keeps([Rate(0.4)]), PROCESS), r"backbone\.value\[0\]\.rate would .*was 0.2, then 0.1"),
        (
            lambda: DiffusionLM(with_more(TwoLayers(4)), PROCESS),
            r"would hold more\.weight, which its constructor doesn't",
        ),
        (
            lambda: Hides(TwoLayers(4), PROCESS),
            r"of this Hides would lack backbone\.1\.bias, which its constructor makes",
        ),
        (
            lambda: DiffusionLM(changed(Pair(4, True), False), PROCESS),
            r"has first.weight and second.weight apart, which",
        ),
    ],
)
def test_a_copy_that_would_be_another_model_is_refused_before_training(make: Any, message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        check_describable(model)
    model.undescribed = "weights"
    check_describable(model)


def test_what_is_tied_by_hand_comes_back_apart_and_is_told() -> None:
    with pytest.warns(UserWarning, match="give back first.weight and second.weight apart, which are one now"):
        check_describable(DiffusionLM(changed(Pair(4, False), True), PROCESS))


def factory(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"backbone": Doubles(2)}, r"a checkpoint of this backbone describes parts that make out\.weight of"),
        (
            {"backbone": nn.Sequential(nn.GRU(2, 3))},
            r"backbone\.args\[0\]: torch\.nn\.GRU refuses its stored arguments",
        ),
        (
            {"backbone": Keeps(Quota(3)), "optimizer": factory},
            r"the function .*_checkpoint\(optimizer=\.\.\.",
        ),
    ],
)
def test_what_would_come_back_as_another_is_refused_before_training(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_describable(DiffusionLM(process=PROCESS, **parts))


def test_a_part_that_cannot_be_described_is_kept_as_weights_on_request(tmp_path: Path) -> None:
    saved = DiffusionLM(Sized(Size(6)), PROCESS, optimizer=factory, seed=3)
    del saved.backbone.config
    with pytest.raises(ValueError, match="--undescribed=weights"):
        check_describable(saved)
    saved.undescribed = "weights"
    check_describable(saved)
    torch.save({"state_dict": saved.state_dict(), "llada": stored_parts(saved)}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"weights of backbone, but not how it is made .*give it: .*backbone=\.\.\."):
        DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    with pytest.warns(UserWarning, match="doesn't say what optimizer was .* the default is used"):
        again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt", backbone=Sized(Size(6)))
    assert (again.seed, again.optimizer) == (3, torch.optim.AdamW)
    assert torch.equal(again.backbone.out.weight, saved.backbone.out.weight)


def test_a_class_within_a_function_is_passed_by_hand(tmp_path: Path) -> None:
    class Local(nn.Linear):
        pass

    saved = DiffusionLM(Local(2, 3), PROCESS)
    check_describable(saved)
    torch.save({"state_dict": saved.state_dict(), "llada": stored_parts(saved)}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"defined within a function, so nobody can find it by its name; pass"):
        DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt", backbone=Local(2, 3))
    assert torch.equal(again.backbone.weight, saved.backbone.weight)
