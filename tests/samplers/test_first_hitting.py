"""When first hitting says a token jumps, and what a run of masks must reach to be written.

With n masks at time 1, of which each jumps at an independent time, the share of masks m(t) = 1 - alpha(t) at the k-th
jump is m(1) U_1^(1/n) U_2^(1/(n-1)) ... with independent uniform U: the largest of n uniform numbers below m(1), then
the largest of the n - 1 below that. A schedule with residual signal, alpha(1) > 0, begins at m(1) < 1.

The times that a time-conditioned model is told are compared with that law by the test of Kolmogorov and Smirnov. Seeds
are fixed; under another seed each comparison would fail once in ten thousand times (`FALSE_ALARMS`).
"""

import math

import pytest
import torch
from torch import Tensor

from llada.noise import GeometricSchedule, LinearSchedule, NoiseSchedule
from llada.process import MaskingProcess
from llada.samplers import PRESETS, PerStep, Sampler, UnmaskingSampler

ROWS, LENGTH, FALSE_ALARMS = 4000, 5, 1e-4


def first_hitting() -> Sampler:
    return PRESETS["first_hitting"]()


def hierarchy(threshold: float, low_threshold: float) -> Sampler:
    return PRESETS["hierarchy"](threshold=threshold, low_threshold=low_threshold, block_length=None)


def p_value(numbers: Tensor) -> float:
    """P(a larger distance) of numbers that should be uniform in (0, 1): Kolmogorov's limit law."""
    ordered, n = numbers.double().sort().values, len(numbers)
    grid = torch.arange(n + 1).double() / n
    distance = float(torch.maximum(ordered - grid[:-1], grid[1:] - ordered).max())
    scaled = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance  # Stephens's correction for finite n
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))


class Told:
    """A model of one token that keeps the noise levels it is told."""

    def __init__(self) -> None:
        self.sigma: list[Tensor] = []

    def __call__(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        self.sigma.append(sigma.double())
        return torch.zeros(*tokens.shape, 2)


def shares(schedule: NoiseSchedule, tokens: Tensor) -> Tensor:
    """Share of masks at each of the jumps that the model was told, (jumps, rows)."""
    model, process = Told(), MaskingProcess(mask_token_id=1, schedule=schedule, time_conditioned=True)
    first_hitting()(model, tokens, process, seed=3)
    return -torch.stack(model.sigma).neg().expm1()  # sigma = -log(1 - share)


def test_a_single_mask_is_written_at_time_one() -> None:
    model, schedule = Told(), LinearSchedule(eps=0.3)
    process = MaskingProcess(mask_token_id=1, schedule=schedule, time_conditioned=True)
    UnmaskingSampler(PerStep(1))(model, torch.tensor([[0, 1, 0]]), process)
    assert torch.cat(model.sigma).tolist() == pytest.approx([-math.log(0.3)])


SCHEDULES: list[tuple[NoiseSchedule, float]] = [
    (LinearSchedule(eps=0.3), 0.7),
    (LinearSchedule(eps=1e-3), 0.999),
    (GeometricSchedule(1e-6, 0.5), 1 - math.exp(-0.5)),
]
"""Schedules with residual signal, and the share of masks that each has at time 1."""


@pytest.mark.parametrize(("schedule", "most"), SCHEDULES, ids=str)
def test_jumps_are_those_of_independent_times(schedule: NoiseSchedule, most: float) -> None:
    """In rows of five masks, and in rows of three among them."""
    tokens = torch.full((ROWS, LENGTH), 1)
    tokens[::2, :2] = 0
    told = shares(schedule, tokens)
    assert len(told) == LENGTH
    for rows, masks in ((told[:, 1::2], LENGTH), (told[:, ::2], LENGTH - 2)):
        before = torch.cat((torch.full_like(rows[:1], most), rows[:-1]))
        left = masks - torch.arange(masks)
        uniforms = (rows[:masks] / before[:masks]) ** left[:, None]
        assert (uniforms < 1 + 1e-4).all()  # sigma is told in float32
        assert min(map(p_value, uniforms)) > FALSE_ALARMS
        together = torch.corrcoef(uniforms) - torch.eye(masks)
        assert together.abs().max() < 4.9 / math.sqrt(ROWS / 2)  # of ten pairs: one false alarm in 10^5


def test_the_test_finds_out_a_start_at_one() -> None:
    told = shares(LinearSchedule(eps=0.3), torch.full((ROWS, LENGTH), 1))
    assert p_value(told[0] ** LENGTH) < 1e-9


def written_first(sampler: Sampler) -> tuple[list[bool], list[float]]:
    """What the first step writes of a gap where the model is sure to 0.6, and of one where it is to 0.4."""
    logits = torch.tensor([[0.6, 0.3, 0.1, 0.9], [1.0, 1.0, 1.0, 1.0], [0.2, 0.4, 0.4, 0.9]]).log()
    tokens = torch.tensor([[3, 0, 3]])
    step = next(iter(sampler.iterate(lambda tokens: logits[None], tokens, MaskingProcess(mask_token_id=3))))
    return step.changed[0].tolist(), step.confidence[0].tolist()


def test_the_best_of_a_run_must_be_above_the_low_threshold_and_any_token_at_the_high_one() -> None:
    _, (sure, _, unsure) = written_first(hierarchy(0.9, 0.1))
    assert (sure, unsure) == pytest.approx((0.6, 0.4))
    assert written_first(hierarchy(0.9, unsure - 1e-6))[0] == [True, False, True]
    assert written_first(hierarchy(0.9, unsure))[0] == [True, False, False]
    assert written_first(hierarchy(0.9, unsure + 1e-6))[0] == [True, False, False]
    assert written_first(hierarchy(unsure - 1e-6, unsure))[0] == [True, False, True]
    assert written_first(hierarchy(unsure, unsure))[0] == [True, False, False]
    assert written_first(hierarchy(unsure + 1e-6, unsure + 1e-6))[0] == [True, False, False]
    assert written_first(hierarchy(0.9, 0.9))[0] == [True, False, False]  # the best of all, always
