"""The reverse step of every process against Bayes' rule, and what noise does against its formula."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llada.denoiser import as_denoiser
from llada.heads.interpolated import divergence
from llada.heads.noise_law import NoisedTokens
from llada.noise import CosineSquaredSchedule, GeometricSchedule, LinearSchedule, NoiseSchedule
from llada.objectives import NELBO
from llada.process import (
    AbsorbingHybridProcess,
    HybridProcess,
    MaskingProcess,
    Process,
    Rates,
    Shares,
    UniformProcess,
)
from llada.random import RowRandom

K = 4  # data tokens; the mask is the token behind them

PROCESSES: list[Process] = [
    process
    for schedule in (LinearSchedule(), CosineSquaredSchedule())
    for process in (
        MaskingProcess(K, schedule),
        UniformProcess(K, schedule),
        HybridProcess(K, K, 0.3, schedule=schedule),
        AbsorbingHybridProcess(K, K, 0.3, schedule=schedule),
    )
] + [HybridProcess(K, K, 0.6, gamma=2.0), AbsorbingHybridProcess(K, K, 0.6, gamma=0.5)]


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
    if isinstance(process, AbsorbingHybridProcess):
        (g_t, rho_t), (g_s, rho_s) = ((1.0 - share.masked, share.kept / (1.0 - share.masked)) for share in (now, then))
        matrix = torch.full((K + 1, K + 1), float(1.0 - rho_t / rho_s) / K, dtype=torch.float64)
        matrix = g_t / g_s * (rho_t / rho_s * torch.eye(K + 1, dtype=torch.float64) + matrix)
        matrix[:, K] = 1.0 - g_t / g_s
        matrix[K] = torch.eye(K + 1, dtype=torch.float64)[K]
        return matrix
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
        possible = marginal(process, 0, t)[tokens] > 0  # a hybrid process has masks only at time 1
        assert (found[possible] >= 0).all()
        torch.testing.assert_close(found.sum(-1)[possible], torch.ones(int(possible.sum()), dtype=torch.float64))
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
    assert UniformProcess(K).is_masked(torch.tensor([[1, K]])).tolist() == [[False, False]]


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSquaredSchedule()], ids=str)
def test_the_weight_of_the_uniform_bound_is_a_rate_over_a_probability(schedule: NoiseSchedule) -> None:
    process = UniformProcess(K, schedule)
    t = torch.tensor([[0.3, 0.3]], dtype=torch.float64)
    alpha, slope = schedule.alpha(t)[0, 0], schedule.alpha_prime(t)[0, 0]
    found = process.bound_weight(t, torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))
    rate = -slope / (alpha * K)
    torch.testing.assert_close(found, torch.stack([rate / (alpha + (1 - alpha) / K), rate / ((1 - alpha) / K)])[None])


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_rates_are_what_a_short_step_does(process: Process) -> None:
    t, step = 0.4, 1e-6
    rate = process.rate(torch.tensor(t, dtype=torch.float64))
    jumps = (transition(process, t - step, t + step) - torch.eye(K + 1, dtype=torch.float64)) / (2.0 * step)
    expected = torch.cat([rate.scattered.expand(K) / K, rate.masked[None]])
    torch.testing.assert_close(jumps[0, 1:], expected[1:], rtol=1e-5, atol=1e-9)
    if not isinstance(process, AbsorbingHybridProcess):  # its mask stays
        by_slopes = Process.rate(process, torch.tensor([t], dtype=torch.float64))
        torch.testing.assert_close(torch.cat(by_slopes), torch.stack(list(rate)))


@dataclass(frozen=True)
class Own(Process):
    """What a user writes."""

    drift: float = 0.0
    detach: bool = False
    num_tokens: int = K
    mask_token_id: int = K
    schedule: NoiseSchedule = LinearSchedule()  # noqa: RUF009 - frozen
    time_conditioned: bool = False

    def shares(self, t: Tensor) -> Shares:
        noise = self.schedule.mask_probability(t.detach() if self.detach else t)
        scattered = noise * (0.5 + self.drift * noise)
        return Shares(1.0 - noise, noise - scattered, scattered)


def test_shares_of_ones_own_have_rates_under_every_grad_mode_or_are_refused() -> None:
    t = torch.tensor([[0.3], [0.9]], dtype=torch.float64)
    expected = Rates(0.5 / (1.0 - t), 0.5 / (1.0 - t))
    torch.testing.assert_close(tuple(Own().rate(t)), tuple(expected))
    with torch.inference_mode():
        torch.testing.assert_close(tuple(Own().rate(t)), tuple(expected))
    with torch.no_grad():
        torch.testing.assert_close(tuple(Own().rate(t)), tuple(expected))
    with pytest.raises(ValueError, match="without detach, or write rate"):
        Own(detach=True).rate(t)
    with pytest.raises(ValueError, match=r"no process has these shares.*rate of -"):
        Own(drift=-1.5).rate(t)


def test_a_hybrid_names_what_it_cannot_be() -> None:
    for options, message in (
        ({"num_tokens": 1}, "must leave 2 data tokens"),
        ({"num_tokens": 2, "mask_token_id": 1}, "must leave 2 data tokens"),
        ({"mask_token_id": -1}, "mask_token_id must be a token id"),
        ({"scatter": 0.0}, "scatter must be above 0"),
        ({"scatter": 1.0}, "scatter must be above 0"),
        ({"gamma": 2.1}, r"gamma must be in \(0, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            HybridProcess(**{"mask_token_id": K, "num_tokens": K, **options})


def test_hybrid_noise_ends_in_masks_and_leaves_no_noise_at_time_0() -> None:
    """Even where the schedule has residual noise at 0, the last step takes xhat by Bayes' rule and nothing else."""
    tokens = torch.zeros(3, 5, dtype=torch.long)
    for kind in (HybridProcess, AbsorbingHybridProcess):
        noise = kind(K, K).prior(tokens, torch.ones_like(tokens).bool(), random=RowRandom.from_seed(0, 3))
        assert (noise == K).all()
        process = kind(K, K, schedule=GeometricSchedule(1e-2))
        clean = torch.eye(K + 1, dtype=torch.float64)[[1]][None]
        t, s = torch.tensor([0.3]).double(), torch.tensor([0.0]).double()
        for z in range(K + 1):
            torch.testing.assert_close(process.reverse(torch.tensor([[z]]), clean, t, s), clean)


@pytest.mark.parametrize("kind", [HybridProcess, AbsorbingHybridProcess, UniformProcess])
def test_prompts_and_packed_rows(kind: type) -> None:
    """A prompt is left alone and isn't scored; each packed segment has a time of its own and is a datum."""
    process = kind(K) if kind is UniformProcess else kind(K, K)
    tokens = torch.tensor([[0, 1, 2, 3, 1, 0], [3, 3, 1, 0, 2, 2]])
    maskable = torch.tensor([[False, True, True, False, True, True], [True] * 6])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    batch = {"tokens": tokens, "maskable": maskable, "segment_ids": segments}
    model = lambda tokens, segment_ids: torch.nn.functional.one_hot(tokens.clamp(max=K), K + 1) * 0.5  # noqa: E731
    objective = NELBO()
    draw = objective.design(as_denoiser(model), process, batch, random=RowRandom.from_seed(5, 2))
    assert torch.equal(draw.scored, maskable)
    assert torch.equal(draw.tokens[~maskable], tokens[~maskable])
    assert [len(row.unique()) for row in draw.t] == [2, 2]
    found = objective(model, process, batch, random=RowRandom.from_seed(5, 2))
    total = 0.0
    for row in range(2):
        for column in range(6):
            if maskable[row, column]:
                t, x, z = (part[row : row + 1, column : column + 1] for part in (draw.t, tokens, draw.tokens))
                law = process.noise_law(t[0])
                logits = torch.nn.functional.one_hot(z[0], K + 1) * 0.5
                weight = process.bound_weight(t, z, x)
                total += float(weight * divergence(logits, NoisedTokens(x[0], z[0], law), t[0])[1])
    assert float(found.nelbo.sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", [HybridProcess, AbsorbingHybridProcess])
@pytest.mark.parametrize("hole", [0, 2])
def test_the_mask_may_stand_among_the_tokens(kind: type, hole: int) -> None:
    """Everything is as with the mask behind the data, but for the names of the tokens."""
    inside, behind = kind(hole, K + 1, 0.3), kind(K, K, 0.3)
    renamed = torch.tensor([v for v in range(K + 1) if v != hole] + [hole])  # of data 0 .. K - 1, then the mask
    x_0, random = torch.randint(K, (40, 6)), RowRandom.from_seed(3, 40)
    t = torch.linspace(0.1, 0.9, 40).double()
    noised = behind.corrupt(x_0, t, random=random).tokens
    assert torch.equal(inside.corrupt(renamed[x_0], t, random=random).tokens, renamed[noised])
    everything = torch.ones_like(x_0).bool()
    assert torch.equal(inside.prior(x_0, everything, random=random), torch.full_like(x_0, hole))
    table = torch.randn(K + 1, K + 1)
    losses = []
    for process, names in ((inside, renamed), (behind, torch.arange(K + 1))):
        logits = torch.zeros_like(table)
        logits[names[:, None], names] = table
        logits.requires_grad_()
        for told in (process, replace(process, posterior=True)):
            found = NELBO()(lambda z, logits=logits: logits[z], told, names[x_0], random=random)
            losses.append((found.nelbo, torch.autograd.grad(found.loss, logits)[0][names[:, None], names]))
        clean = torch.nn.functional.pad(table[:, :K].softmax(-1).double(), (0, 1))[None]
        turned = torch.zeros_like(clean)
        turned[..., names] = clean
        steps = process.reverse(names[None], turned.requires_grad_(), t[20:21], t[5:6])
        slopes = torch.autograd.grad(steps.square().sum(), turned)[0]
        losses[-1] += (steps.detach()[..., names], slopes[..., names])
    for a, b in zip(losses[:2], losses[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the data has the mask token"):
        inside.corrupt(torch.full((1, 2), hole), t[:1], random=RowRandom.from_seed(0, 1))
