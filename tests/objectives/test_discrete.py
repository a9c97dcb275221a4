"""The T-step bound: its times, its weights, and its limit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.noise import (
    ArccosSchedule,
    CosineSchedule,
    CosineSquaredSchedule,
    LinearSchedule,
    LogarithmicSchedule,
    MDLMCosineSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    PowerSchedule,
    StratifiedTimes,
)
from llada.objectives import NELBO, BoundWeight, PerToken, TimeGrid, discrete_time
from llada.objectives.independent import step_weight
from llada.process import MaskingProcess
from llada.random import RowRandom
from tests.doubles import GivenTimes

SCHEDULES = pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(),
        LinearSchedule(eps=1e-3),
        CosineSchedule(),
        MDLMCosineSchedule(),
        CosineSquaredSchedule(),
        ArccosSchedule(),
        LogarithmicSchedule(),
        PolynomialSchedule(2.0),
        PowerSchedule(2.0),
    ],
    ids=str,
)


def grid(num_steps: int) -> Tensor:
    return torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps


def test_times_are_moved_to_the_end_of_their_step() -> None:
    t = torch.tensor([1e-9, 0.1, 0.25, 0.26, 0.999, 1.0])
    design = TimeGrid(GivenTimes(t), num_steps=4)
    times = design.move(design.times(RowRandom.from_seed(0, len(t))))
    assert times.tolist() == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_stratified_times_give_every_step_its_share() -> None:
    design = TimeGrid(num_steps=5)
    times = design.move(design.times(RowRandom.from_seed(3, 20)))
    assert times.sort().values.tolist() == grid(5).repeat_interleave(4).tolist()


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_a_token_counts_as_often_as_it_is_uncovered(schedule: NoiseSchedule, num_steps: int) -> None:
    # With cross-entropy 1 everywhere the bound is the probability that the reverse process uncovers a token at all.
    t = grid(num_steps)
    bound = (step_weight(schedule, t, num_steps) * schedule.mask_probability(t)).mean()
    assert float(bound) == pytest.approx(
        float(schedule.mask_probability(torch.ones((), dtype=torch.float64))), rel=1e-12
    )


@SCHEDULES
def test_many_steps_give_the_continuous_weight(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(step_weight(schedule, t, 10**6), schedule.loss_weight(t), rtol=1e-4, atol=0)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_the_linear_schedule_has_the_same_weight_for_any_number_of_steps(eps: float) -> None:
    schedule = LinearSchedule(eps)
    torch.testing.assert_close(step_weight(schedule, grid(7), 7), 1 / grid(7), rtol=1e-12, atol=0)


@SCHEDULES
def test_all_is_uncovered_in_the_last_step(schedule: NoiseSchedule) -> None:
    t = torch.tensor([1e-6, 0.05, 0.1], dtype=torch.float64)
    assert step_weight(schedule, t, 10).tolist() == [10.0, 10.0, 10.0]


def test_more_steps_give_a_tighter_bound() -> None:
    # A token is harder the more is masked: its cross-entropy grows with t, so the ends of the steps overestimate.
    schedule, bounds = CosineSchedule(), []
    for num_steps in (1, 2, 8, 64):
        t = grid(num_steps)
        p = schedule.mask_probability(t)
        bounds.append(float((step_weight(schedule, t, num_steps) * p * p).mean()))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(1.0)
    assert bounds[-1] == pytest.approx(0.5, abs=0.02)  # the integral of p dp


def test_one_step_is_plain_cross_entropy_of_a_fully_masked_row() -> None:
    x_0 = torch.randint(10, (4, 6))
    logits = torch.randn(4, 6, 11, dtype=torch.float64)
    process = MaskingProcess(mask_token_id=10, schedule=CosineSchedule())
    output = discrete_time(1)(lambda _: logits, process, x_0, random=RowRandom.from_seed(0, 4))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x_0.flatten())
    assert output.num_scored.tolist() == [6] * 4
    torch.testing.assert_close(output.loss, expected)


def test_the_named_loss_keeps_times_and_weight_in_step() -> None:
    assert discrete_time(16) == NELBO(TimeGrid(StratifiedTimes(), num_steps=16), BoundWeight(), PerToken())


@pytest.mark.parametrize("part", [lambda steps: TimeGrid(num_steps=steps), discrete_time])
def test_no_steps_are_refused(part: Any) -> None:
    with pytest.raises(ValueError, match="num_steps must be 1 or more; got 0"):
        part(0)
