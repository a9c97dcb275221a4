"""The reverse step of every process against Bayes' rule, and what noise does against its formula."""

import pytest
import torch
from torch import Tensor

from llada.noise import CosineSquaredSchedule, LinearSchedule, NoiseSchedule
from llada.process import MaskingProcess, Process, UniformProcess
from llada.random import RowRandom

K = 4  # data tokens; the mask is the token behind them

PROCESSES: list[Process] = [
    process
    for schedule in (LinearSchedule(), CosineSquaredSchedule())
    for process in (MaskingProcess(K, schedule), UniformProcess(K, schedule))
]


def marginal(process: Process, x: int, t: float) -> Tensor:
    """q(x_t | x_0 = x), (K + 1,)."""
    share = process.shares(torch.tensor(t, dtype=torch.float64))
    q = torch.full((K + 1,), float(share.scattered) / K, dtype=torch.float64)
    q[K] = share.masked
    q[x] += share.kept
    return q


def transition(process: Process, s: float, t: float) -> Tensor:
    """q(x_t | x_s), (K + 1, K + 1): the one matrix with q(x_t | x_0) = q(x_s | x_0) times it, by its own formula."""
    now, then = (process.shares(torch.tensor(time, dtype=torch.float64)) for time in (t, s))
    ratio = now.kept / then.kept
    noise = [torch.full((K + 1,), float(share.scattered) / K, dtype=torch.float64) for share in (now, then)]
    noise[0][K], noise[1][K] = now.masked, then.masked
    matrix = ratio * torch.eye(K + 1, dtype=torch.float64) + (noise[0] - ratio * noise[1])
    if process.mask_token_id is not None and not process.scatters:  # absorbing
        matrix[K] = torch.eye(K + 1, dtype=torch.float64)[K]
    return matrix


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_it_is_the_posterior_when_the_clean_token_is_known(process: Process) -> None:
    t, s = 0.7, 0.3
    matrix = transition(process, s, t)
    for x in range(K):
        q_t, q_s = marginal(process, x, t), marginal(process, x, s)
        torch.testing.assert_close(q_s @ matrix, q_t)
        clean = torch.eye(K + 1, dtype=torch.float64)[x]
        for z in range(K + 1):
            if q_t[z] == 0.0:
                continue
            found = process.reverse(
                torch.tensor([[z]]), clean[None, None], torch.tensor([t]).double(), torch.tensor([s]).double()
            )
            torch.testing.assert_close(found[0, 0], q_s * matrix[:, z] / q_t[z])


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_it_is_a_distribution_for_any_prediction(process: Process) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, K + 1, K + 1, dtype=torch.float64, generator=generator)
    clean[..., K] = 0.0
    clean /= clean.sum(-1, keepdim=True)
    tokens = torch.arange(K + 1)[None] if process.mask_token_id is not None else torch.arange(K + 1)[None] % K
    for t, s in ((1.0, 0.4), (0.6, 0.1), (0.2, 0.0)):
        found = process.reverse(tokens, clean, torch.tensor([t]).double(), torch.tensor([s]).double())
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(-1), torch.ones(1, K + 1, dtype=torch.float64))
    assert process.mask_token_id is None or (found[..., K] == 0).all()  # at time 0 nothing is masked


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_noise_has_the_shares_of_its_formula(process: Process) -> None:
    """Chi-square of 20,000 tokens; false alarm 1e-6 per case."""
    import scipy.stats

    rows, t = 20_000, 0.6
    x_0 = torch.full((rows, 2), 1)
    maskable = torch.tensor([[True, False]]).expand(rows, 2)
    random = RowRandom.from_seed(11, rows)
    noised = process.corrupt(x_0, torch.full((rows,), t), maskable, random=random)
    assert (noised.tokens[:, 1] == 1).all()
    assert not noised.scored[:, 1].any()
    expected = rows * marginal(process, 1, t)
    counts = noised.tokens[:, 0].bincount(minlength=K + 1)
    some = expected > 0
    assert (counts[~some] == 0).all()
    assert scipy.stats.chisquare(counts[some].numpy(), expected[some].numpy()).pvalue > 1e-6
    wanted = noised.tokens[:, 0] == K if not process.scatters else torch.ones(rows, dtype=torch.bool)
    assert torch.equal(noised.scored[:, 0], wanted)


def test_prior_is_pure_noise_at_the_unknown_positions_only() -> None:
    tokens, unknown = torch.tensor([[K, 2, 2]]).expand(5000, 3), torch.tensor([[False, True, True]]).expand(5000, 3)
    masked = MaskingProcess(K).prior(tokens, unknown, random=RowRandom.from_seed(0, 5000))
    assert torch.equal(masked[0], torch.tensor([K, K, K]))
    drawn = UniformProcess(K).prior(tokens, unknown, random=RowRandom.from_seed(0, 5000))
    assert (drawn[:, 0] == K).all()
    counts = drawn[:, 1:].flatten().bincount(minlength=K).double()
    assert ((counts - 2500.0).abs() < 250.0).all()  # 5.8 standard deviations each
    assert (drawn[:, 1] != drawn[:, 2]).any()


def test_a_uniform_process_names_a_token_that_is_not_data() -> None:
    with pytest.raises(ValueError, match="token 4 isn't one of the num_tokens=4"):
        UniformProcess(K).corrupt(torch.tensor([[1, K]]), torch.ones(1), random=RowRandom.from_seed(0, 1))
    with pytest.raises(ValueError, match="num_tokens must be 2 or more"):
        UniformProcess(1)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSquaredSchedule()], ids=str)
def test_the_weight_of_the_uniform_bound_is_a_rate_over_a_probability(schedule: NoiseSchedule) -> None:
    process = UniformProcess(K, schedule)
    t = torch.tensor([[0.3, 0.3]], dtype=torch.float64)
    alpha, slope = schedule.alpha(t)[0, 0], schedule.alpha_prime(t)[0, 0]
    found = process.bound_weight(t, torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))
    rate = -slope / (alpha * K)
    torch.testing.assert_close(found, torch.stack([rate / (alpha + (1 - alpha) / K), rate / ((1 - alpha) / K)])[None])
