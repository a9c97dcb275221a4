"""A call that was forgotten, or a part in another one's place, is told where the parts are put together."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.data import SentencePieceTraining, TextDataModule, TextFiles, llada_template
from llada.metrics import SamplerLikelihood, UnderSampler
from llada.noise import CosineSchedule
from llada.objectives import NELBO, llada_pretraining
from llada.process import HybridProcess
from llada.rewards import PolicyObjective
from llada.samplers import (
    Comb,
    Confidence,
    Demote,
    Margin,
    Order,
    PerStep,
    Stochastic,
    UnmaskingSampler,
    UntilStop,
    WholeCanvas,
    low_confidence,
)
from llada.text import TextModel
from llada.training.lr_schedulers import WarmupCosine

MASK = 7
Rule = Callable[[Any], Any]


def backbone() -> nn.Module:
    return BidirectionalTransformer(8, width=8, num_layers=1, num_heads=2)


def model(**parts: Any) -> DiffusionLM:
    return DiffusionLM(**{"backbone": backbone(), "process": MaskingProcess(MASK), **parts})


def data(**parts: Any) -> TextDataModule:
    tokenizer = SentencePieceTraining(vocab_size=300)
    return TextDataModule(
        **{"source": TextFiles("x"), "tokenizer": tokenizer, "max_length": 8, "batch_size": 2, **parts}
    )


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "function": (lambda: model(sampler=low_confidence), "sampler is the function low_confidence itself; call it"),
    "class": (lambda: model(sampler=UnmaskingSampler), "sampler is the class UnmaskingSampler itself"),
    "objective": (lambda: model(objective=NELBO), r"objective is the class NELBO itself; build .*: NELBO\(\.\.\.\)"),
    "preset": (lambda: model(objective=llada_pretraining), "objective is the function llada_pretraining itself"),
    "bound": (lambda: model(bound=NELBO), "bound is the class NELBO itself"),
    "process": (lambda: model(process=MaskingProcess), "process is the class MaskingProcess itself"),
    "backbone": (lambda: model(backbone=BidirectionalTransformer), "backbone is the class BidirectionalTransformer"),
    "swapped": (lambda: DiffusionLM(MaskingProcess(MASK), backbone()), "backbone must be of the kind Module; got Mask"),
    "inside": (lambda: model(objective=NELBO(weight=1.0)), r"objective\.weight must be of the kind .*; got 1\.0"),
    "optimizer": (
        lambda: model(optimizer=torch.optim.SGD(backbone().parameters())),
        "optimizer is called when training begins.*AdamW, lr.*got SGD .*, a SGD",
    ),
    "scheduler": (lambda: model(lr_scheduler="cosine"), "lr_scheduler is called when .*WarmupCosine.*got 'cosine'"),
    "schedule": (lambda: MaskingProcess(MASK, CosineSchedule), "schedule is the class CosineSchedule itself"),
    "hybrid": (lambda: HybridProcess(MASK, 8, schedule=CosineSchedule), "schedule is the class CosineSchedule itself"),
    "number": (lambda: UnmaskingSampler(4), "amount must be of the kind Amount; got 4, a int"),
    "order": (lambda: UnmaskingSampler(PerStep(1), Margin), "order is the class Margin itself"),
    "turned": (lambda: Stochastic(PerStep(1), 0.5), "inner must be of the kind Order"),
    "combed": (lambda: Comb(PerStep), "inner is the class PerStep itself"),
    "demoted": (lambda: UnmaskingSampler(PerStep(1), Demote(Margin, (2,))), r"order\.inner is the class Margin itself"),
    "template": (lambda: TextModel(model(), None, template=llada_template), "the function llada_template itself; call"),
    "source": (lambda: data(source=TextFiles), "source is the class TextFiles itself; build an object of it"),
    "path": (lambda: data(source="story.txt"), "source must be of the kind .*Documents.*; got 'story.txt', a str"),
    "tokenizer": (lambda: data(tokenizer=SentencePieceTraining), "tokenizer is the class SentencePieceTraining itself"),
    "metric": (lambda: SamplerLikelihood(low_confidence), "sampler is the function low_confidence itself; call it"),
    "estimator": (lambda: UnderSampler(sampler=low_confidence), "sampler is the function low_confidence itself"),
    "growing": (lambda: UntilStop(low_confidence, 2, 8), "sampler is the function low_confidence itself"),
    "policy": (lambda: PolicyObjective(low_confidence), "sampler is the function low_confidence itself"),
    "decoder": (lambda: TextModel(model(), None, sampler=low_confidence), "sampler is the function low_confidence"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_object_of_the_kind_is_named(name: str) -> None:
    make, told = WRONG[name]
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize("place", [each.name for each in fields(UnmaskingSampler)])
@pytest.mark.parametrize("wrong", [WholeCanvas, low_confidence, 0.5], ids=["class", "function", "number"])
def test_every_place_of_a_sampler(place: str, wrong: Any) -> None:
    parts = {"amount": PerStep(1), place: (wrong,) if place == "adjustments" else wrong}
    if place == "adjustments" and isinstance(wrong, float):
        return  # numbers among constraints fail where they are called
    with pytest.raises(TypeError, match=rf"{place}(\[0\])? (is the|must be)"):
        UnmaskingSampler(**parts)


def test_what_may_be_called_stays() -> None:
    built = model(
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        lr_scheduler=partial(WarmupCosine, warmup_steps=1, total_steps=2),
        sampler=UnmaskingSampler(PerStep(1), Stochastic(Confidence(), 0.5)),
    )
    assert callable(built.optimizer)


@dataclass(frozen=True)
class ByRule(Order):
    """A part of one's own that holds functions, named in three ways."""

    rule: Callable[[Any], Any]
    other: "Rule"
    third: Any = len

    def __call__(self, state: Any) -> Any:
        return self.rule(state)


def test_a_part_of_ones_own_may_hold_functions() -> None:
    order = ByRule(lambda state: state.probability, lambda state: state, third=lambda state: state)
    assert UnmaskingSampler(PerStep(1), order).order is order
    made = ByRule(Margin, Margin, third=Margin)  # classes, which are called later
    assert UnmaskingSampler(PerStep(1), made).order is made


@pytest.mark.parametrize("mask", ["<mask>", 7.0, -1, None])
def test_a_mask_that_is_no_token_id(mask: Any) -> None:
    for make in (MaskingProcess, lambda token: HybridProcess(token, 8)):
        with pytest.raises(ValueError, match="mask_token_id must be a token id, 0 or more; got"):
            make(mask)
