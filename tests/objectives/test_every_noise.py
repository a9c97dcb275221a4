"""One bound for every noise: the entropy under the leave-one-out oracle, and the published losses token by token."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.heads.interpolated import divergence
from llada.heads.noise_law import NoisedTokens
from llada.noise import CosineSquaredSchedule, LinearSchedule, NoiseSchedule
from llada.process import AbsorbingHybridProcess, HybridProcess, MaskingProcess, Process, UniformProcess
from tests.helpers import ALL_SCHEDULES
from tests.objectives.exact_bound import ENTROPY, K, bound, full_posterior, seen

KINDS: dict[str, Any] = {
    "masked": lambda schedule: MaskingProcess(K, schedule),
    "uniform": lambda schedule: UniformProcess(K, schedule),
    **{
        f"{kind.__name__} {scatter}": lambda schedule, kind=kind, scatter=scatter: kind(
            K, K, scatter, schedule=schedule
        )
        for kind in (HybridProcess, AbsorbingHybridProcess)
        for scatter in (0.02, 0.2, 0.6)
    },
    "slow": lambda schedule: HybridProcess(K, K, 0.3, gamma=2.0, schedule=schedule),
}


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_the_bound_is_the_entropy_under_the_leave_one_out_oracle(schedule: NoiseSchedule) -> None:
    """Where a schedule leaves noise at t = 0 or signal at t = 1 the integral lacks exactly what is known there."""
    ends = schedule.mask_probability(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    few = ("masked", "uniform", "HybridProcess 0.2", "AbsorbingHybridProcess 0.6")
    for name, make in KINDS.items():
        if name not in few and schedule != LinearSchedule():
            continue  # the shares of the same kind at all schedules are enough
        process = make(schedule)
        found = bound(process)
        assert found == pytest.approx(seen(process), abs=1e-6), name
        if ends == [0.0, 1.0]:
            assert found == pytest.approx(ENTROPY, abs=1e-6), name


@pytest.mark.parametrize("name", ["uniform", "HybridProcess 0.2"])
def test_the_full_posterior_is_not_the_optimum(name: str) -> None:
    assert bound(KINDS[name](LinearSchedule()), full_posterior) > ENTROPY + 0.3


# The published losses, written out for one token: x clean, z noised, xhat the network's probabilities of K data tokens.


def duo(x: int, z: int, xhat: Tensor, alpha: float, slope: float) -> float:
    """Duo's loss of a token in its form with the fewest terms, which is also UDLM's (there alpha = 1 - t)."""
    bar = len(xhat) * alpha * xhat + 1.0 - alpha  # of the network; that of the clean token:
    own = torch.full_like(xhat, 1.0 - alpha)
    own[x] += len(xhat) * alpha
    ratio = own / own[z]
    inner = len(xhat) / own[z] - len(xhat) / bar[z] - (ratio * ((bar[z] / bar) * ratio).log()).sum()
    return float(slope / (len(xhat) * alpha) * inner)


def gidd_weight(x: int, z: int, t: float, scatter: float) -> float:
    """GIDD's three weights at alpha = 1 - t and gamma = 1: of a kept token, a mask, and a random token."""
    c = 2.0 * scatter / (1.0 - scatter) * math.sqrt(t * (1.0 - t))
    slope = 0.5 * (1.0 - 2.0 * t) / (t * (1.0 - t)) * c
    if z == K:
        return 1.0 / (t * (1.0 - t))
    if z == x:
        return (c + (1.0 - t) * slope) / K / ((1.0 - t) * (1.0 - t + c / K))
    return (c + (1.0 - t) * slope) / ((1.0 - t) * c)


def gidd(x: int, z: int, xhat: Tensor, t: float, scatter: float) -> float:
    """GIDD's loss of a token: its weight times KL and ratio terms over all K + 1 states."""
    c = 2.0 * scatter / (1.0 - scatter) * math.sqrt(t * (1.0 - t))
    noise = torch.tensor([c / K] * K + [t], dtype=torch.float64)
    pad = torch.nn.functional.pad
    q = ((1.0 - t) * torch.eye(K + 1, dtype=torch.float64)[x] + noise) / (1.0 + c)
    p = ((1.0 - t) * pad(xhat, (0, 1)) + noise) / (1.0 + c)
    ratio = q[z] / p[z]
    return float(gidd_weight(x, z, t, scatter) * ((q * (q / p).log()).sum() + ratio - ratio.log() - 1.0))


def scdd(x: int, z: int, xhat: Tensor, t: float, scatter: float) -> float:
    """The loss under an absorbing mask, from the share g that isn't masked and the share rho of these that is kept."""

    def parts(time: Tensor) -> Tensor:
        c = 2.0 * scatter / (1.0 - scatter) * (time * (1.0 - time)).sqrt()
        return torch.stack(((1.0 - time + c) / (1.0 + c), (1.0 - time) / (1.0 - time + c)))

    time = torch.tensor(t, dtype=torch.float64)
    (seen_share, rho), (seen_slope, rho_slope) = parts(time), torch.autograd.functional.jacobian(parts, time)
    q = rho * torch.eye(K, dtype=torch.float64)[x] + (1.0 - rho) / K
    p = rho * xhat + (1.0 - rho) / K
    kl = (q * (q / p).log()).sum()
    if z == K:
        return float(-seen_slope / (1.0 - seen_share) * kl)
    ratio = q[z] / p[z]
    return float(-rho_slope / (rho * K * q[z]) * (kl + ratio - ratio.log() - 1.0))


def sedd(x: int, z: int, xhat: Tensor, alpha: float, slope: float) -> float:
    """SEDD's score entropy under uniform noise, with the model's score p(y) / p(z) and total noise -log alpha."""
    q, p = ((alpha * part + (1.0 - alpha) / K) for part in (torch.eye(K, dtype=torch.float64)[x], xhat))
    score, truth = p / p[z], q / q[z]
    each = score - truth * score.log() + truth * (truth.log() - 1.0)
    return float(-slope / alpha / K * (each.sum() - each[z]))


def ours(process: Process, x: int, z: int, xhat: Tensor, t: float) -> float:
    time = torch.tensor([[t]], dtype=torch.float64)
    law = process.noise_law(time[0])
    assert law is not None
    weight = process.bound_weight(time, torch.tensor([[z]]), torch.tensor([[x]]))
    return float(
        weight * divergence(xhat.log()[None], NoisedTokens(torch.tensor([x]), torch.tensor([z]), law), time[0])[1]
    )


@pytest.mark.parametrize("t", [0.03, 0.37, 0.9])
def test_it_is_each_published_loss_token_by_token(t: float) -> None:
    xhat = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    close = {"rel": 1e-12, "abs": 1e-12}
    for schedule in (LinearSchedule(), CosineSquaredSchedule(0.0)):
        time = torch.tensor(t, dtype=torch.float64)
        alpha, slope = float(schedule.alpha(time)), float(schedule.alpha_prime(time))
        for x, z in ((1, 1), (1, 2), (0, 2)):
            found = ours(UniformProcess(K, schedule), x, z, xhat, t)
            assert found == pytest.approx(duo(x, z, xhat, alpha, slope), **close)
            assert found == pytest.approx(sedd(x, z, xhat, alpha, slope), **close)
    for x, z in ((1, 1), (1, 2), (1, K)):
        hybrid, absorbing = HybridProcess(K, K, 0.2), AbsorbingHybridProcess(K, K, 0.2)
        weight = hybrid.bound_weight(time[None, None], torch.tensor([[z]]), torch.tensor([[x]]))
        assert float(weight) == pytest.approx(gidd_weight(x, z, t, 0.2), **close)
        assert ours(hybrid, x, z, xhat, t) == pytest.approx(gidd(x, z, xhat, t, 0.2), **close)
        assert ours(absorbing, x, z, xhat, t) == pytest.approx(scdd(x, z, xhat, t, 0.2), **close)


def test_masked_diffusion_is_the_same_formula() -> None:
    """Where nothing is scattered the divergence is a times the cross-entropy, and SEDD's loss is MDLM's."""
    t, xhat, x = torch.tensor([0.37], dtype=torch.float64), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), 2
    process = MaskingProcess(K)
    law = UniformProcess(K).noise_law(t)
    assert law is not None
    where = NoisedTokens(torch.tensor([x]), torch.tensor([K]), law._replace(scattered=torch.zeros_like(t)))
    found = float(divergence(xhat.log()[None], where, t)[1])
    rate, share = process.rate(t), process.shares(t)
    nll = -math.log(xhat[x])
    assert found == pytest.approx(float(share.kept) * nll, rel=1e-12)
    weight = process.bound_weight(t[:, None], torch.tensor([[K]]), torch.tensor([[x]]))
    assert float(rate.masked / share.masked) * found == pytest.approx(float(weight) * nll, rel=1e-12)
    score = xhat * share.kept / share.masked  # SEDD: dsigma sum_y s_y - c_y log s_y + c_y (log c_y - 1)
    truth = share.kept / share.masked
    entropy = score.sum() - truth * score[x].log() + truth * (truth.log() - 1.0)
    assert float(rate.masked * entropy) == pytest.approx(float(weight) * nll, rel=1e-12)
