"""Every schedule: the contract of its curve, and its closed forms against automatic differentiation."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llada.noise import (
    ArccosSchedule,
    CosineSquaredSchedule,
    GeometricSchedule,
    LinearSchedule,
    LinearSigmaSchedule,
    MDLMCosineSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    PowerSchedule,
    RescaledSchedule,
)
from tests.golden_models import arrays
from tests.helpers import ALL_SCHEDULES, AlphaAlone

GRID = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
INSIDE = GRID[1:-1]
START_BELOW_ONE = (GeometricSchedule, LinearSigmaSchedule)
"""Schedules that say so: alpha(0) = exp(-sigma_min)."""
CURVES = ("alpha", "alpha_prime", "mask_probability", "loss_weight", "sigma", "time_at")

every_schedule = pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@every_schedule
def test_alpha_falls_from_one_to_almost_nothing(schedule: NoiseSchedule) -> None:
    alpha = schedule.alpha(GRID)
    start = math.exp(-schedule.sigma_min) if isinstance(schedule, START_BELOW_ONE) else 1.0
    assert float(alpha[0]) == start
    assert 0.0 <= float(alpha[-1]) <= 2e-3
    falls = alpha.diff() < 0
    tail = alpha[:-1] < 1e-300  # exp(-1/(1-t)) leaves the numbers a little before t = 1
    assert bool((falls | tail).all())


@every_schedule
@given(t=st.floats(1e-4, 0.999))
def test_the_derivative_equals_autograd_and_differences(schedule: NoiseSchedule, t: float) -> None:
    time = scalar(t)
    closed, auto = schedule.alpha_prime(time), NoiseSchedule.alpha_prime(schedule, time)
    torch.testing.assert_close(closed, auto, rtol=1e-9, atol=1e-12)
    step = 1e-4 * min(t, 1 - t)
    differences = (schedule.alpha(time + step) - schedule.alpha(time - step)) / (2 * step)
    torch.testing.assert_close(auto, differences, rtol=1e-5, atol=1e-7)
    assert float(closed) <= 0.0


@every_schedule
def test_weight_is_rate_over_masked_share(schedule: NoiseSchedule) -> None:
    weight, share = schedule.loss_weight(INSIDE), schedule.mask_probability(INSIDE)
    torch.testing.assert_close(weight * share, -schedule.alpha_prime(INSIDE), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(share, 1.0 - schedule.alpha(INSIDE), rtol=0, atol=1e-14)
    generic = NoiseSchedule.loss_weight(schedule, INSIDE)
    torch.testing.assert_close(weight, generic, rtol=1e-8, atol=1e-12)


@every_schedule
@given(times=st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3, unique=True))
def test_unmasking_composes(schedule: NoiseSchedule, times: list[float]) -> None:
    u, s, t = (scalar(value) for value in sorted(times))
    direct = schedule.unmask_probability(t, u)
    first, second = schedule.unmask_probability(t, s), schedule.unmask_probability(s, u)
    for probability in (direct, first, second):
        assert 0.0 <= float(probability) <= 1.0
    torch.testing.assert_close(1 - direct, (1 - first) * (1 - second), rtol=1e-9, atol=1e-12)
    expected = (schedule.alpha(u) - schedule.alpha(t)) / (1 - schedule.alpha(t))
    torch.testing.assert_close(direct, expected, rtol=1e-6, atol=1e-9)


@every_schedule
def test_the_last_reverse_step_uncovers_everything(schedule: NoiseSchedule) -> None:
    for t in (1e-9, 0.3, 1.0):
        assert float(schedule.unmask_probability(scalar(t), scalar(0.0))) == 1.0


@every_schedule
@given(t=st.floats(0.001, 0.999))
def test_time_at_inverts_the_masked_share(schedule: NoiseSchedule, t: float) -> None:
    share = schedule.mask_probability(scalar(t))
    again = schedule.mask_probability(schedule.time_at(share))
    torch.testing.assert_close(again, share, rtol=1e-9, atol=1e-12)
    bisected = schedule.mask_probability(NoiseSchedule.time_at(schedule, share))
    torch.testing.assert_close(bisected, share, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_schedule
def test_shares_outside_the_curve_give_its_ends(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    shares = torch.tensor([-0.5, -1e-6, 0.0, 1.0, 1.0 + 1e-6, 1.5], dtype=dtype)
    times = schedule.time_at(shares)
    assert times.dtype == dtype
    assert bool(((times >= 0.0) & (times <= 1.0)).all())
    assert bool((times[:3] < 1e-6).all())
    flat = isinstance(schedule, AlphaAlone)  # near t = 1
    assert bool((times[3:] > (0.94 if flat else 1.0 - 1e-6)).all())


@every_schedule
def test_the_rate_integrates_to_the_fall(schedule: NoiseSchedule) -> None:
    # A midpoint rule on t = u^2, which tames slopes that are infinite at 0 (sqrt, arccos).
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    integral = float((-schedule.alpha_prime(u.square()) * 2 * u).mean())
    assert integral == pytest.approx(float(schedule.alpha(scalar(0.0)) - schedule.alpha(scalar(1.0))), abs=1e-5)


@every_schedule
def test_sigma_is_minus_log_alpha(schedule: NoiseSchedule) -> None:
    torch.testing.assert_close(torch.exp(-schedule.sigma(INSIDE)), schedule.alpha(INSIDE), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("schedule", [s for s in ALL_SCHEDULES if not isinstance(s, AlphaAlone)], ids=repr)
def test_float32_is_stable_near_zero(schedule: NoiseSchedule) -> None:
    t = torch.logspace(-5, -0.01, 200)
    for name in ("mask_probability", "loss_weight", "sigma"):
        ours = getattr(schedule, name)(t)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), getattr(schedule, name)(t.double()), rtol=2e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "schedule", [*ALL_SCHEDULES, MDLMCosineSchedule(0.0), CosineSquaredSchedule(0.0), PolynomialSchedule(3.0)], ids=repr
)
def test_no_sign_flips_at_the_noisy_end(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    end = torch.tensor([0.999999, 1.0], dtype=dtype)
    alpha, share = schedule.alpha(end), schedule.mask_probability(end)
    assert bool((alpha >= 0.0).all())
    assert bool((share <= 1.0).all())
    assert not bool(schedule.sigma(end).isnan().any())
    if not isinstance(schedule, AlphaAlone):  # its slope at t = 1 is 0 times infinity
        assert bool((schedule.alpha_prime(end) <= 0.0).all())
        assert bool((schedule.loss_weight(end) >= 0.0).all())


@pytest.mark.parametrize("curve", CURVES)
@every_schedule
def test_what_is_not_a_real_number_is_refused_and_halves_are_widened(schedule: NoiseSchedule, curve: str) -> None:
    method = getattr(schedule, curve)
    with pytest.raises(ValueError, match=r"must be float32 or float64, got torch.int64; write t.double\(\)"):
        method(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"got 0.5; write torch.tensor\(0.5, dtype=torch.float64\)"):
        method(0.5)
    for half in (torch.bfloat16, torch.float16):
        t = torch.tensor([[0.05, 0.3], [0.6, 0.9]], dtype=half)
        assert torch.equal(method(t), method(t.float()))
        assert method(t).dtype == torch.float32
        assert method(t).shape == (2, 2)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        schedule.unmask_probability(torch.tensor(0.5), torch.tensor(0))


@every_schedule
def test_a_rescaled_curve_has_no_residue(schedule: NoiseSchedule) -> None:
    rescaled, ends = RescaledSchedule(schedule), torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert rescaled.alpha(ends).tolist() == [1.0, 0.0]
    assert rescaled.mask_probability(ends).tolist() == [0.0, 1.0]
    weight = schedule.alpha_prime(INSIDE) / (schedule.alpha(INSIDE) - schedule.alpha(scalar(0.0)))
    torch.testing.assert_close(rescaled.loss_weight(INSIDE), weight, rtol=1e-7, atol=0)


def test_gradients_reach_a_learned_curve() -> None:
    class Learned(NoiseSchedule):
        def __init__(self) -> None:
            self.power = scalar(2.0).requires_grad_()

        def alpha(self, t: Tensor) -> Tensor:
            return 1.0 - t**self.power

    schedule = Learned()
    (gradient,) = torch.autograd.grad(schedule.loss_weight(INSIDE).sum(), schedule.power)
    torch.testing.assert_close(gradient, (1.0 / INSIDE).sum())  # w = n / t


def test_the_masked_share_is_curve_enough() -> None:
    class Square(NoiseSchedule):
        def mask_probability(self, t: Tensor) -> Tensor:
            return t**2

    ours, closed = Square(), PolynomialSchedule(2.0)
    for curve in CURVES:
        torch.testing.assert_close(getattr(ours, curve)(INSIDE), getattr(closed, curve)(INSIDE), rtol=1e-9, atol=0)


def test_a_schedule_without_a_curve_is_refused() -> None:
    class Nothing(NoiseSchedule):
        pass

    for make in (Nothing, NoiseSchedule):
        with pytest.raises(TypeError, match=r"must define alpha\(t\) or mask_probability\(t\)"):
            make()


def test_a_lost_derivative_is_an_error() -> None:
    class Detached(NoiseSchedule):
        def alpha(self, t: Tensor) -> Tensor:
            return 1.0 - t.detach()

    with pytest.raises(ValueError, match=r"derivative of Detached.alpha\(t\) got lost"):
        Detached().alpha_prime(INSIDE)


def test_the_derivative_is_there_whatever_mode_torch_is_in() -> None:
    schedule = AlphaAlone()
    expected = schedule.alpha_prime(INSIDE)
    with torch.no_grad():
        assert torch.equal(schedule.alpha_prime(INSIDE), expected)
    with torch.inference_mode():
        assert torch.equal(schedule.alpha_prime(INSIDE.clone()), expected)
    square = INSIDE[:998].reshape(2, -1)
    assert torch.equal(schedule.alpha_prime(square), expected[:998].reshape(2, -1))
    assert not expected.requires_grad
    torch.testing.assert_close(torch.func.vmap(schedule.alpha_prime)(INSIDE), expected)
    compiled: Any = torch.compile(schedule.loss_weight, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(INSIDE), schedule.loss_weight(INSIDE))


MDLM = {
    "loglinear": LinearSchedule(eps=1e-3),
    "cosine": MDLMCosineSchedule(),
    "cosinesqr": CosineSquaredSchedule(),
    "linear_0_10": LinearSigmaSchedule(0.0, 10.0),
    "linear_1e-3_7": LinearSigmaSchedule(1e-3, 7.0),
    "geometric_1e-3_1": GeometricSchedule(1e-3, 1.0),
    "geometric_1e-4_20": GeometricSchedule(1e-4, 20.0),
}


@pytest.mark.parametrize("name", MDLM)
def test_mdlms_schedules(name: str) -> None:
    golden, schedule = arrays("mdlm-dit-tiny", "schedules"), MDLM[name]
    t = golden["t"].double()
    ours = {
        "sigma": schedule.sigma(t),
        "dsigma": -schedule.alpha_prime(t) / schedule.alpha(t),
        "move_chance": schedule.mask_probability(t),
        "loss_weight": schedule.loss_weight(t[1:]),
    }
    for quantity, value in ours.items():
        in_float64 = golden.get(f"{name}.{quantity}_f64")
        if in_float64 is not None:
            torch.testing.assert_close(value, in_float64, rtol=1e-6, atol=1e-9)
        # The reference's own float32 loses its digits towards t = 1, where alpha is almost 0.
        coarse = 2e-4 if "cosine" in name else 1e-5
        torch.testing.assert_close(value[:-1], golden[f"{name}.{quantity}"][:-1].double(), rtol=coarse, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(eps=1.0), r"must be in \[0, 1\)"),
        (lambda: MDLMCosineSchedule(eps=-0.1), r"must be in \[0, 1\)"),
        (lambda: CosineSquaredSchedule(eps=math.nan), r"must be in \[0, 1\)"),
        (lambda: PolynomialSchedule(0.0), "power must be above 0"),
        (lambda: PolynomialSchedule(math.inf), "power must be above 0 and finite"),
        (lambda: PowerSchedule(-1.0), "power must be above 0"),
        (lambda: GeometricSchedule(0.0, 1.0), "can't start at sigma_min=0"),
        (lambda: GeometricSchedule(1.0, math.inf), "both finite"),
        (lambda: LinearSigmaSchedule(2.0, 1.0), "0 <= sigma_min < sigma_max"),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_settings_are_values() -> None:
    assert LinearSchedule() == LinearSchedule(0.0)
    assert hash(PolynomialSchedule(2.0)) == hash(PolynomialSchedule(2.0))
    assert repr(ArccosSchedule()) == "ArccosSchedule()"
