"""Samplers for every process: psi-samplers, correctors, greedy ends, commit and renoise; by exact laws."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.data.toy import ToyLanguage
from llada.noise import LinearSchedule
from llada.process import AbsorbingHybridProcess, HybridProcess, MaskingProcess, Process, UniformProcess
from llada.random import RowRandom
from llada.samplers import (
    AncestralSampler,
    Binomial,
    CappedRemasking,
    CommitAndRenoise,
    Confidence,
    ConstantKappa,
    ForwardBackwardRemasking,
    GibbsSampler,
    Margin,
    Proposal,
    PsiSampler,
    RandomOrder,
    RemaskingKappa,
    RescaledRemasking,
    Sampler,
    State,
    Stretches,
    UnmaskingSampler,
)
from llada.samplers.renoise import within_bound
from tests.objectives.exact_bound import JOINT, K, leave_one_out

EVERY: list[Process] = [
    MaskingProcess(K),
    UniformProcess(K),
    HybridProcess(K, K, 0.3),
    AbsorbingHybridProcess(K, K, 0.3),
]
ROWS = 20_000


class Oracle(torch.nn.Module):
    """The leave-one-out posterior of two tokens; it is told the time by ``sigma`` of a schedule without an end."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        t = self.process.schedule.time_at(-torch.expm1(-sigma.double()))
        clean = leave_one_out(self.process, tokens, t)
        return torch.nn.functional.pad(clean.log(), (0, 1), value=-torch.inf)


def told(process: Process) -> Process:
    return replace(process, schedule=LinearSchedule(1e-6), time_conditioned=True)  # type: ignore[type-var]


def frequency(sampler: Sampler, process: Process) -> Tensor:
    tokens, given = torch.zeros(ROWS, 2, dtype=torch.long), torch.zeros(ROWS, 2, dtype=torch.bool)
    rows = sampler(Oracle(process), tokens, process, given=given).tokens
    return (rows[:, 0] * K + rows[:, 1]).bincount(minlength=K * K).view(K, K) / ROWS


def distance(law: Tensor) -> float:
    return float((law - JOINT).abs().sum() / 2)


@pytest.mark.parametrize("kappa", [ConstantKappa(0.6), RemaskingKappa(RescaledRemasking(0.5))], ids=str)
@pytest.mark.parametrize("process", EVERY, ids=lambda p: type(p).__name__)
def test_a_psi_step_keeps_the_marginals(process: Process, kappa: ConstantKappa) -> None:
    """Of one token with any prior, exactly: its law at s is the marginal of the process whatever kappa is."""
    prior = torch.tensor([0.5, 0.2, 0.3, 0.0], dtype=torch.float64)
    t, s = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    now, then = (process.marginal(prior[None, None], time)[0, 0] for time in (t, s))
    tokens = torch.arange(K + 1)[None]
    clean = prior.expand(1, K + 1, -1)
    law = process.reverse(tokens, clean, t, s)
    sampler = PsiSampler(kappa=kappa)
    mixed = sampler.amend(law, process, tokens, clean, t, s)
    possible = now > 0.0
    torch.testing.assert_close((now[:, None] * mixed[0])[possible].sum(0), then)
    assert not torch.allclose(mixed[0, possible], law[0, possible])
    assert sampler.amend(law, process, tokens, clean, t, 0.0 * s) is law  # the end is ancestral


@pytest.mark.parametrize("rates", [CappedRemasking(0.3), RescaledRemasking(0.4), ForwardBackwardRemasking()], ids=str)
def test_remasking_is_the_masked_case_of_psi(rates: CappedRemasking) -> None:
    """Both steps have one law: the chances to uncover and to mask again, from ReMDM's formulas."""
    process, time = MaskingProcess(K), {"t": 0.55, "s": 0.5}
    t, s = (torch.tensor([value], dtype=torch.float64) for value in time.values())
    alpha_t, alpha_s = 1.0 - time["t"], 1.0 - time["s"]
    sigma = min(float(rates.sigma(1.0 - t, 1.0 - s)), (1.0 - alpha_s) / alpha_t, 1.0)
    tokens, clean = torch.tensor([[K, 1]]), torch.tensor([0.5, 0.2, 0.3, 0.0]).double().expand(1, 2, -1)
    law = PsiSampler(kappa=RemaskingKappa(rates)).amend(
        process.reverse(tokens, clean, t, s), process, tokens, clean, t, s
    )
    uncover = (alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)
    expected = torch.stack((uncover * clean[0, 0], torch.zeros(K + 1).double()))
    expected[0, K], expected[1, 1], expected[1, K] = 1.0 - uncover, 1.0 - sigma, sigma
    torch.testing.assert_close(law[0], expected)


def test_remasking_and_psi_write_alike() -> None:
    """Samples of the two samplers; two samples of one law differ by less than 0.025 in total variation."""
    language = ToyLanguage.dirichlet(vocab_size=3, length=2, concentration=0.5, seed=2)
    process, tokens = MaskingProcess(language.mask_token_id), torch.full((ROWS, 2), language.mask_token_id)
    rates = RescaledRemasking(0.6)
    remdm = UnmaskingSampler(Binomial(4), RandomOrder(), proposal=Proposal(1.0), rates=rates)
    found = []
    for sampler in (remdm, PsiSampler(4, kappa=RemaskingKappa(rates))):
        rows = sampler(language.oracle, tokens, process).tokens
        found.append(torch.bincount(language.index(rows), minlength=9) / ROWS)
    assert float((found[0] - found[1]).abs().sum() / 2) < 0.025


@pytest.mark.parametrize("process", EVERY[1:], ids=lambda p: type(p).__name__)
def test_samples_come_nearer_by_corrections_and_stay_near_by_psi(process: Process) -> None:
    """Of 20,000 rows the distance to the language is known to about 0.01."""
    process = told(process)
    plain = distance(frequency(AncestralSampler(2, power=4.0), process))
    corrected = distance(frequency(GibbsSampler(2, power=4.0, corrections=6), process))
    assert corrected < 0.5 * plain
    assert plain > 0.05
    assert distance(frequency(PsiSampler(24, kappa=ConstantKappa(0.8), power=2.0), process)) < 0.025


def test_a_correction_leaves_the_law_of_the_canvas_as_it_is() -> None:
    """Exactly, for two tokens: one of them, chosen by chance, is drawn anew given the other."""
    s = torch.tensor([0.5], dtype=torch.float64)
    for process in EVERY[1:]:
        every = torch.tensor(list(itertools.product(range(K + 1), repeat=2)))
        single = process.marginal(torch.eye(K + 1, dtype=torch.float64)[None, :K], s)[0]  # q(z | x), (K, K + 1)
        law = torch.einsum("ab,ay,bz->yz", JOINT, single, single).flatten()
        clean = torch.nn.functional.pad(leave_one_out(process, every, s.expand(len(every))), (0, 1))
        anew = process.marginal(clean, s.expand(len(every)))
        after = torch.zeros_like(law)
        for index, (a, b) in enumerate(every.tolist()):
            for v in range(K + 1):
                after[v * (K + 1) + b] += 0.5 * law[index] * anew[index, 0, v]
                after[a * (K + 1) + v] += 0.5 * law[index] * anew[index, 1, v]
        torch.testing.assert_close(after.nan_to_num(), law)


def test_a_correction_draws_the_least_certain_positions_again() -> None:
    """A peaked model at positions 0 and 1, and one that knows nothing at the others: only those may change."""
    logits = torch.zeros(6, K)
    logits[:2, 0] = 30.0
    process = UniformProcess(K)
    for order in (Margin(), Confidence()):
        sampler = GibbsSampler(1, positions=2, order=order)
        random = RowRandom.from_seed(0, 50)
        start = torch.zeros(50, 6, dtype=torch.long)
        begun = State.begin(process, start, start > 0, random)
        begun = replace(begun, tokens=start, columns=torch.arange(6).expand(50, -1), valid=start == 0)
        network = process.network(lambda tokens: logits.expand(len(tokens), -1, -1))
        steps = list(sampler.correct(network, begun, torch.full((50,), 0.5).double(), random, {}))
        assert len(steps) == 1
        assert not steps[0].changed[:, :2].any()
        assert 20 < int(steps[0].changed.sum()) <= 100


def test_the_greedy_tail_takes_the_best_token_and_leaves_masked_diffusion_its_text() -> None:
    table = torch.tensor([[0.2, 0.5, 0.3, 0.0], [0.6, 0.1, 0.3, 0.0]]).log()
    model = lambda tokens: table.expand(len(tokens), -1, -1)  # noqa: E731
    tokens, given = torch.zeros(40, 2, dtype=torch.long), torch.zeros(40, 2, dtype=torch.bool)
    for process in EVERY[1:]:
        rows = AncestralSampler(3, greedy_tail=True)(model, tokens, process, given=given).tokens
        assert rows.unique(dim=0).tolist() == [[1, 0]]
        assert len(AncestralSampler(3)(model, tokens, process, given=given).tokens.unique(dim=0)) > 3
    steps = list(AncestralSampler(2, greedy_tail=True).iterate(model, tokens + K, EVERY[0]))
    written = steps[0].tokens != K
    assert written.any()
    assert torch.equal(steps[1].tokens[written], steps[0].tokens[written])
    assert (steps[1].tokens == torch.tensor([1, 0]))[~written].all()


def test_stretches_have_a_kappa_each() -> None:
    kappa = Stretches(ConstantKappa(1.0), ConstantKappa(0.5), ConstantKappa(0.25), t_on=0.6, t_off=0.2)
    t = torch.tensor([0.9, 0.6, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert kappa(EVERY[1], t, 0.5 * t).tolist() == [1.0, 0.5, 0.5, 0.25, 0.25]
    ancestral = PsiSampler(4, kappa=ConstantKappa(1.0))
    model = lambda tokens: tokens[..., None] * torch.tensor([0.5, -0.5, 0.2])  # noqa: E731
    tokens = torch.zeros(30, 4, dtype=torch.long)
    rows = [
        sampler(model, tokens, UniformProcess(3), given=tokens > 0).tokens
        for sampler in (ancestral, AncestralSampler(4))
    ]
    assert torch.equal(*rows)


def test_commit_and_renoise_accepts_what_the_released_rule_accepts() -> None:
    """The kept set, and when a row is finished, against transformers' own classes."""
    module = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    generator = torch.Generator().manual_seed(0)
    logits = 4.0 * torch.randn(6, 9, 11, generator=generator)
    for bound in (0.1, 1.0, 5.0):
        theirs = module.EntropyBoundSampler(module.EntropyBoundSamplerConfig(bound), 9, 11, 48)
        theirs.accept_canvas(torch.zeros(6, 9).long(), torch.ones(6, 9).long(), logits, 1)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        assert torch.equal(within_bound(entropy, bound), theirs.accepted_token_mask)
    entropy[:, 3] = torch.inf
    assert not within_bound(entropy, 5.0)[:, 3].any()


def test_commit_and_renoise_stops_when_sure_and_takes_the_best_tokens() -> None:
    """A model that is sure from the start needs two calls; one that isn't takes all, and ends in its best tokens."""
    tokens = torch.tensor([[2, 0, 0, 0], [1, 1, 0, 0]])
    given = torch.tensor([[True, False, False, False], [True, True, False, False]])
    for scale, calls in ((60.0, 2), (0.5, 5)):
        table = scale * torch.eye(K + 2)[torch.tensor([0, 1, 2, 1])][:, : K + 2]
        model = lambda x, table=table: table.expand(len(x), -1, -1)  # noqa: E731
        steps = list(CommitAndRenoise(5).iterate(model, tokens, UniformProcess(K), given=given, seed=1))
        assert steps[-1].tokens.tolist() == [[2, 1, 2, 1], [1, 1, 2, 1]]
        assert steps[-1].calls.tolist() == [calls, calls]
        assert all(torch.equal(step.tokens[given], tokens[given]) for step in steps)
        assert all((step.tokens < K).all() for step in steps)
    drawn = torch.cat([step.tokens[~given] for step in steps[:-1]])
    assert len(drawn.unique()) == K  # what isn't kept is random
    alone = CommitAndRenoise(5)(model, tokens[1:], UniformProcess(K), given=given[1:], seed=2)
    together = CommitAndRenoise(5)(model, tokens, UniformProcess(K), given=given, seed=1)
    assert torch.equal(alone.tokens[0], together.tokens[1])


def test_what_cannot_be_is_refused_by_name() -> None:
    tokens = torch.zeros(1, 2, dtype=torch.long)
    model = lambda x: torch.zeros(*x.shape, K + 1)  # noqa: E731
    with pytest.raises(ValueError, match=r"MaskingProcess.*use PsiSampler"):
        list(GibbsSampler(2).iterate(model, tokens, MaskingProcess(K)))
    for process in (MaskingProcess(K), HybridProcess(K, K)):
        with pytest.raises(ValueError, match=r"noise without masks.*use AncestralSampler"):
            list(CommitAndRenoise().iterate(model, tokens, process))
    for wrong in (
        lambda: GibbsSampler(corrections=0),
        lambda: ConstantKappa(1.1),
        lambda: Stretches(t_on=0.1, t_off=0.2),
        lambda: CommitAndRenoise(t_min=0.0),
        lambda: CommitAndRenoise(steps=0),
        lambda: CommitAndRenoise(entropy_bound=-1.0),
        lambda: AncestralSampler(power=0.0),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - the messages are the classes' own
            wrong()
