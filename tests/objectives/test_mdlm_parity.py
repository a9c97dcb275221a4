"""MDLM's own losses, from its own weights, times and masks (tests/golden/mdlm-dit-tiny).

Every case with cross-entropy as its loss is here. Left out is the D3PM one: its terms need the probability that the
network gives to the mask token, which the masked bound has no place for.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import DiffusionTransformer
from llada.denoiser import BackboneDenoiser
from llada.noise import (
    CosineSquaredSchedule,
    GeometricSchedule,
    LinearSchedule,
    LinearSigmaSchedule,
    MDLMCosineSchedule,
    NoiseSchedule,
)
from llada.objectives import (
    NELBO,
    BoundWeight,
    Design,
    Draw,
    IndependentMasks,
    ObjectiveOutput,
    PerToken,
    TimeGrid,
    Weight,
)
from llada.objectives.independent import step_weight
from llada.process import MaskingProcess, Process
from tests.doubles import GivenNumbers, GivenTimes
from tests.golden_models import arrays, tiny_dit, values

MASK = 130
LOGLINEAR = LinearSchedule(eps=1e-3)


@pytest.fixture(scope="module")
def networks() -> dict[str, DiffusionTransformer]:
    return {"time_off": tiny_dit("checkpoint"), "time_on": tiny_dit("checkpoint_time_conditioned")}


@dataclass(frozen=True)
class ConstantWeight(Weight):
    """The same weight at every time."""

    value: float

    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return torch.full_like(draw.t, self.value)


@dataclass(frozen=True)
class ClampedStepWeight(Weight):
    """MDLM's discrete weight: it keeps t below 1, so the last step of the grid counts 1.0001 instead of 1."""

    num_steps: int

    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return step_weight(process.schedule, draw.t.clamp(max=1 - 1e-4), self.num_steps)


@dataclass(frozen=True)
class Case:
    """How our components say what MDLM computes."""

    schedule: NoiseSchedule
    design: Design
    weight: Weight = field(default_factory=BoundWeight)


class OnGoldenInput(BackboneDenoiser):
    """The network reading MDLM's x_t, and a record of the weighted cross-entropies.

    MDLM noises the padding too, and its network sees that; ``attention_mask`` does no more than drop padding from the
    loss. We leave padding alone, so the two inputs may differ there, and nowhere else.
    """

    def __init__(self, network: DiffusionTransformer, x_t: Tensor, real: Tensor) -> None:
        super().__init__(network)
        self.x_t, self.real = x_t, real
        self.nlls = torch.zeros(x_t.shape)

    def weighted_nll(
        self, tokens: Tensor, targets: Tensor, where: Tensor, weights: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert torch.equal(tokens[self.real], self.x_t[self.real])
        total, terms = super().weighted_nll(self.x_t, targets, where, weights, **kwargs)
        self.nlls[where] = (terms * weights).float()
        return total, terms


def golden_times() -> Tensor:
    """The stored float32 times as the decimal numbers that they stand for: 0.9 * 10 is 9, not less."""
    return arrays("mdlm-dit-tiny", "losses")["t"].double().round(decimals=6)


def log_uniform_times(sigma_min: float, sigma_max: float) -> GivenTimes:
    """MDLM's change of variables: the logarithm of the mask probability is linear in t."""
    low, high = (math.log(-math.expm1(-sigma)) for sigma in (sigma_min, sigma_max))
    return GivenTimes(LOGLINEAR.time_at((low + golden_times() * (high - low)).exp()))


def cases() -> dict[str, Case]:
    times = GivenTimes(golden_times())
    design = IndependentMasks(times)
    log_bound = ConstantWeight(
        -math.log(-math.expm1(-1e-3))
    )  # of the smallest sigma that MDLM's log-linear noise admits
    return {
        "loglinear.time_off": Case(LOGLINEAR, design),
        "loglinear.time_on": Case(LOGLINEAR, design),
        "cosine.time_off": Case(MDLMCosineSchedule(eps=1e-3), design),
        "cosine.time_on": Case(MDLMCosineSchedule(eps=1e-3), design),
        "cosinesqr.time_off": Case(CosineSquaredSchedule(eps=1e-3), design),
        "geometric.time_off": Case(GeometricSchedule(sigma_min=1e-4, sigma_max=20.0), design),
        "linear.time_off": Case(LinearSigmaSchedule(sigma_min=1e-3, sigma_max=7.0), design),
        "loglinear.T1000.time_off": Case(LOGLINEAR, TimeGrid(times, num_steps=1000), ClampedStepWeight(1000)),
        "loglinear.T10.time_on": Case(LOGLINEAR, TimeGrid(times, num_steps=10), ClampedStepWeight(10)),
        "loglinear.change_of_variables.time_off": Case(
            LOGLINEAR, IndependentMasks(log_uniform_times(1e-3, math.log(1000))), log_bound
        ),
        "loglinear.importance_sampling.time_off": Case(LOGLINEAR, design, log_bound),
    }


CASES = pytest.mark.parametrize("name", cases())


def evaluate(name: str, network: DiffusionTransformer) -> tuple[ObjectiveOutput, Tensor]:
    """Our output for a golden case, and the weighted cross-entropy of every token."""
    golden, case = arrays("mdlm-dit-tiny", "losses"), cases()[name]
    process = MaskingProcess(MASK, case.schedule, time_conditioned=name.endswith("time_on"), predicts_mask=False)
    real = golden["attention_mask"].bool()
    model = OnGoldenInput(network, golden[f"{name}.xt"], real)
    objective = NELBO(case.design, case.weight, PerToken())
    output = objective(
        model, process, {"tokens": golden["x0"], "maskable": real}, random=GivenNumbers.of(golden["uniform"])
    )
    return output, model.nlls


@CASES
def test_loss(name: str, networks: dict[str, DiffusionTransformer]) -> None:
    output, _ = evaluate(name, networks[name.rpartition(".")[2]])
    expected = values("mdlm-dit-tiny", "losses")[name]
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert output.denominator.item() == arrays("mdlm-dit-tiny", "losses")["attention_mask"].sum()


@CASES
def test_token_losses(name: str, networks: dict[str, DiffusionTransformer]) -> None:
    _, nlls = evaluate(name, networks[name.rpartition(".")[2]])
    torch.testing.assert_close(nlls, arrays("mdlm-dit-tiny", "losses")[f"{name}.nlls"], rtol=2e-5, atol=0)


@CASES
def test_masks(name: str) -> None:
    golden, case = arrays("mdlm-dit-tiny", "losses"), cases()[name]
    random = GivenNumbers.of(golden["uniform"])
    t = case.design.move(case.design.times(random))
    p = case.schedule.mask_probability(t)
    torch.testing.assert_close(p, golden[f"{name}.move_chance"][:, 0].double(), rtol=1e-5, atol=0)
    noised = MaskingProcess(MASK, case.schedule).corrupt(golden["x0"], t, random=random)
    assert torch.equal(noised.tokens, golden[f"{name}.xt"])
    assert int(noised.scored.sum()) == values("mdlm-dit-tiny", "losses")[name]["masked"]


@CASES
def test_the_reported_bound_has_the_weight_of_the_bound(name: str, networks: dict[str, DiffusionTransformer]) -> None:
    output, _ = evaluate(name, networks[name.rpartition(".")[2]])
    case, nlls = cases()[name], arrays("mdlm-dit-tiny", "losses")[f"{name}.nlls"].double()
    t = output.t
    draw = Draw(*[torch.zeros(0)] * 4, t=t, bound_weight=case.schedule.loss_weight(t), level=t)
    bound = draw.bound_weight
    if isinstance(case.design, TimeGrid):  # the bound of as many steps
        bound = step_weight(case.schedule, t, case.design.num_steps)
    expected = nlls.sum(1) * bound / case.weight(MaskingProcess(MASK, case.schedule), draw)
    torch.testing.assert_close(output.nelbo, expected, rtol=1e-5, atol=0)


def test_all_golden_losses_are_here_but_d3pm() -> None:
    assert set(values("mdlm-dit-tiny", "losses")) - set(cases()) == {"d3pm.loglinear.T100.time_on"}


@pytest.mark.parametrize("name", ["loglinear.time_off", "loglinear.time_on"])
def test_loss_in_float64(name: str) -> None:
    folder = "checkpoint" if name.endswith("off") else "checkpoint_time_conditioned"
    output, _ = evaluate(name, tiny_dit(folder).double())
    assert output.loss.item() == pytest.approx(
        values("mdlm-dit-tiny", "losses")[name]["loss_float64_network"], rel=1e-7
    )
