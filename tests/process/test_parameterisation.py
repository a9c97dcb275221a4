"""What a network's outputs mean: the full posterior or scores, in bound and sampler, by enumeration of a language."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.noise import LinearSchedule
from llada.objectives import (
    NELBO,
    BoundWeight,
    ClippedWeight,
    DynamicWeight,
    IndependentMasks,
    PerScored,
    PlainCrossEntropy,
    UnitWeight,
)
from llada.process import (
    AbsorbingHybridProcess,
    HybridProcess,
    LeaveOneOut,
    MaskingProcess,
    Process,
    ScoreDenoiser,
    UniformProcess,
)
from llada.random import RowRandom
from llada.samplers import AncestralSampler, State
from tests.objectives.exact_bound import ENTROPY, JOINT, K, bound, full_posterior, laws, leave_one_out

SCATTERING: list[Process] = [UniformProcess(K), HybridProcess(K, K, 0.2), AbsorbingHybridProcess(K, K, 0.2)]


def scores(process: Process, tokens: Tensor, t: Tensor) -> Tensor:
    """p(y) / p(z) for each data token y; exp of what a network of scores puts out, any number standing at y = z."""
    share = process.shares(t[:, None, None])
    p = share.kept * leave_one_out(process, tokens, t) + share.scattered / K
    law = torch.cat((p, share.masked.expand(*tokens.shape, 1)), -1)
    found = p / law.gather(-1, tokens[..., None])
    return torch.where(torch.arange(K) == tokens[..., None], 0.123, found)


@pytest.mark.parametrize("process", SCATTERING, ids=str)
def test_the_bound_of_a_converted_network_is_the_entropy(process: Process) -> None:
    assert bound(process, full_posterior, LeaveOneOut) == pytest.approx(ENTROPY, abs=1e-6)
    told = replace(process, posterior=True)  # type: ignore[type-var]
    assert bound(told, full_posterior) == pytest.approx(ENTROPY, abs=1e-6)
    assert bound(told, full_posterior, LeaveOneOut) == pytest.approx(ENTROPY, abs=1e-6)  # converted once, not twice
    if not isinstance(process, AbsorbingHybridProcess):
        assert bound(process, scores, ScoreDenoiser) == pytest.approx(ENTROPY, abs=1e-6)


def test_scores_have_the_gradient_of_the_score_entropy() -> None:
    """SEDD's loss under uniform noise at alpha = 1 - t, by its own formula, for scores of an arbitrary network."""
    torch.manual_seed(0)
    t, x, z = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[1]]), torch.tensor([[2]])
    process = UniformProcess(K)
    log_s = (0.1 * torch.randn(K).double()).requires_grad_()
    law = process.noise_law(t[0])
    weight = process.bound_weight(t, z, x)[0]
    model = ScoreDenoiser(lambda tokens: log_s[None, None])
    ours, _ = model.interpolated_nll(z, x, torch.ones(1, 1).bool(), weight, law)  # type: ignore[arg-type]
    score = torch.where(torch.arange(K) == z[0], 0.0, log_s).exp()
    truth = 0.6 * torch.eye(K).double()[1] + 0.4 / K
    truth = truth / truth[2]
    each = score - truth * score.log() + truth * (truth.log() - 1.0)
    theirs = (each.sum() - each[2]) / 0.6 / K  # -alpha' / alpha for each of the K tokens
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, log_s)[0] for loss in (ours, theirs)))


ALL = torch.tensor(list(itertools.product(range(K), repeat=2)))


def law_of(sampler: AncestralSampler, process: Process, model: Callable[[Tensor], Any]) -> Tensor:
    """The law of two tokens that the sampler writes, summed over all paths; ``model(t)`` is the network at a time."""
    size = K if process.mask_token_id is None else K + 1
    every = torch.tensor(list(itertools.product(range(size), repeat=2)))
    share = process.shares(torch.tensor(1.0, dtype=torch.float64))
    start = torch.cat((share.scattered.expand(K) / K, share.masked[None]))[:size]
    law = (start[every[:, 0]] * start[every[:, 1]]).double()
    state = State.begin(process, every, torch.zeros_like(every).bool(), RowRandom.from_seed(0, len(every)))
    steps = torch.full((len(every),), sampler.steps)
    state = replace(state, tokens=every, columns=torch.arange(2).expand(len(every), -1), num_steps=steps)
    for k in range(sampler.steps):
        t, s = sampler.times(replace(state, step=k))
        _, clean = sampler.predict(process.network(model(t)), state, t, {})
        step = process.reverse(every, clean, t, s)[..., :size].nan_to_num()  # states that the prior hasn't
        law = (law[:, None, None] * step[:, 0, :, None] * step[:, 1, None, :]).sum(0).flatten()
    return law.view(size, size)[:K, :K]


def distance(law: Tensor) -> float:
    return float((law - JOINT).abs().sum() / 2)


def network(process: Process, predict: Any) -> Callable[[Tensor], Denoiser]:
    pad = torch.nn.functional.pad
    return lambda t: as_denoiser(lambda tokens: pad(predict(process, tokens, t).log(), (0, 1), value=-torch.inf))


@pytest.mark.parametrize("process", SCATTERING[:2], ids=str)
def test_a_network_of_scores_writes_what_its_predictions_would(process: Process) -> None:
    sampler, pad = AncestralSampler(3), torch.nn.functional.pad
    process = replace(process, schedule=LinearSchedule(1e-2))  # type: ignore[type-var]  # all scores are 1 where none is kept

    def of_scores(t: Tensor) -> Denoiser:
        return ScoreDenoiser(lambda tokens: pad(scores(process, tokens, t).log(), (0, 1), value=-torch.inf))

    expected = law_of(sampler, process, network(process, leave_one_out))
    torch.testing.assert_close(law_of(sampler, process, of_scores), expected, rtol=1e-9, atol=1e-12)


def test_the_table_of_laws() -> None:
    """Total variation of uniform diffusion's samples from the data, exactly; docs/noise.md shows the table."""
    process = UniformProcess(K)
    best, plain = network(process, leave_one_out), network(process, full_posterior)
    told = UniformProcess(K, posterior=True)
    table = {}
    for steps in (4, 16, 64, 256):
        pairs = ((told, plain), (process, plain), (process, best))[: 3 if steps < 64 else 2]
        found = [distance(law_of(AncestralSampler(steps), *pair)) for pair in pairs]
        assert found[0] <= 0.2 / steps
        assert found[2:] in ([], [pytest.approx(found[0], rel=1e-9)])
        table[steps] = (round(found[0], 5), round(found[1], 3))
    assert table == {4: (0.04517, 0.126), 16: (0.01116, 0.132), 64: (0.00276, 0.135), 256: (0.00069, 0.136)}


@pytest.mark.parametrize("process", [MaskingProcess(K), *SCATTERING], ids=str)
def test_every_process_generates_the_language(process: Process) -> None:
    """Short steps at the end keep the error of hybrid noise below 0.2 / T; even ones don't."""
    model, counts = network(process, leave_one_out), (4, 16, 64)
    for steps in counts:
        assert distance(law_of(AncestralSampler(steps, power=2.0), process, model)) <= 0.2 / steps
    if isinstance(process, HybridProcess):
        assert distance(law_of(AncestralSampler(64), process, model)) > 0.3 / 64


def test_plain_cross_entropy_and_the_bound_beside_it() -> None:
    """The loss is the mean cross-entropy of every maskable token; the bound is that of the leave-one-out posterior."""
    torch.manual_seed(0)
    table = torch.randn(K + 1, K + 1, dtype=torch.float64, requires_grad=True)
    process = HybridProcess(K, K, 0.3, posterior=True)
    x_0 = torch.randint(K, (6, 5))
    maskable = torch.rand(6, 5) < 0.7
    batch, random = {"tokens": x_0, "maskable": maskable}, RowRandom.from_seed(3, 6)
    model = lambda tokens: table[tokens]  # noqa: E731
    found = PlainCrossEntropy()(model, process, batch, random=random)
    draw = IndependentMasks()(as_denoiser(model), process, batch, random=random)
    nll = -table[draw.tokens][..., :K].log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    torch.testing.assert_close(found.loss, nll[maskable].mean())
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, table, retain_graph=True)[0] for loss in (found.loss, nll[maskable].mean()))
    )
    plain = HybridProcess(K, K, 0.3)
    expected = NELBO()(LeaveOneOut(model), plain, batch, random=random)
    torch.testing.assert_close(found.nelbo, expected.nelbo)
    loose = PlainCrossEntropy(any_process=True)(model, plain, batch, random=random)
    torch.testing.assert_close(loose.loss, found.loss)
    assert not torch.allclose(loose.nelbo, found.nelbo)
    with pytest.raises(ValueError, match=r"full posterior, but HybridProcess.*posterior=True"):
        PlainCrossEntropy()(model, plain, batch, random=random)
    masked = [
        objective(model, MaskingProcess(K), batch, random=random).loss
        for objective in (PlainCrossEntropy(), NELBO(weight=UnitWeight(), normaliser=PerScored()))
    ]
    assert torch.equal(*masked)


def test_gidds_weights() -> None:
    process = HybridProcess(K, K, 0.2)
    x_0 = torch.tensor([[0, 1, 2, 0]])
    draw = IndependentMasks()(as_denoiser(lambda x: x), process, {"tokens": x_0}, random=RowRandom.from_seed(0, 1))
    t = torch.tensor([[0.3]]).double()
    tokens = torch.tensor([[0, 2, K, 1]])
    draw = replace(draw, t=t, tokens=tokens, bound_weight=process.bound_weight(t, tokens, x_0))
    kept = 0.5 / K * (0.3 / 0.7) ** 0.5  # B / K exp(-log-SNR / 2), B = 2 * 0.2 / 0.8
    torch.testing.assert_close(DynamicWeight()(process, draw), torch.tensor([[kept, 1.0, 2.0, 1.0]]).double())
    assert DynamicWeight(1.5)(process, draw).tolist()[0][1:] == [1.0, 1.5, 1.0]
    whole = BoundWeight()(process, draw)
    torch.testing.assert_close(ClippedWeight(1.0)(process, draw), whole.clamp(max=1.0))
    assert float(whole.max()) > 1.0
    with pytest.raises(ValueError, match="draws none"):
        DynamicWeight()(MaskingProcess(K), draw)
    for weight in (ClippedWeight, DynamicWeight):
        with pytest.raises(ValueError, match="must be above 0"):
            weight(0.0)


def test_marginals_have_a_mask_column_only_where_there_is_one() -> None:
    """The enumeration itself: laws are distributions, and the two oracles differ by the token's own evidence."""
    t = torch.tensor([0.4], dtype=torch.float64)
    for process in (*SCATTERING, MaskingProcess(K, LinearSchedule())):
        torch.testing.assert_close(laws(process, t).sum(-1), torch.ones(1, K, dtype=torch.float64))
    masked = torch.tensor([[K, 1]])
    one, other = (f(SCATTERING[1], masked, t) for f in (leave_one_out, full_posterior))
    torch.testing.assert_close(one[:, 0], other[:, 0])
    assert not torch.allclose(one[:, 1], other[:, 1])
