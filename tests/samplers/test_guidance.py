"""Guidance under every noise: the exact laws of its steps, what it leaves as it was, and the training that it needs."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llada.objectives import NELBO, ConditionDropout, ExactCounts, IndependentMasks
from llada.process import HybridProcess, MaskingProcess, Process, UniformProcess
from llada.random import RowRandom
from llada.samplers import (
    AncestralSampler,
    Classifier,
    ClassifierGuidance,
    CommitAndRenoise,
    ConstantKappa,
    GibbsSampler,
    GradientGuidance,
    Guidance,
    PsiSampler,
    Sampler,
    State,
    UnmaskingSampler,
)
from llada.samplers.step_law import StepLaw
from tests.process.test_reverse import PROCESSES, K, marginal, transition

NULL = K + 1  # an id behind data and mask
FLOAT = torch.float64
T, S = 0.7, 0.4
SHARP = torch.rand(3, K, generator=torch.Generator().manual_seed(3), dtype=FLOAT).softmax(-1) ** 3
JOINT = SHARP / SHARP.sum()
"""p(y, x) of a label y and a token x."""


def step_by_enumeration(process: Process, clean: Tensor, z: int) -> Tensor:
    """p(x_s | x_t = z), (K + 1,), summed over the clean tokens: Bayes' rule for the chain x_0, x_s, x_t."""
    paths = torch.stack([marginal(process, x, S) for x in range(K)]) * transition(process, S, T)[:, z]
    law = clean @ paths
    return law / law.sum()


def states(process: Process) -> list[int]:
    """The tokens that x_t may be."""
    return [z for z in range(K + 1) if float(marginal(process, 0, T)[z]) > 0.0]


def step_law(sampler: AncestralSampler, process: Process, z: int, clean: dict[int, Tensor]) -> StepLaw:
    """Of one token behind a prompt, where the network's answer follows from the prompt alone."""
    tokens = torch.tensor([[0, z]])
    begun = State.begin(process, tokens, torch.tensor([[True, False]]), RowRandom.from_seed(0, 1))
    state = replace(begun, tokens=tokens, columns=torch.tensor([[1]]), valid=torch.tensor([[True]]))
    table = {prompt: torch.nn.functional.pad(p.log(), (0, 2), value=-torch.inf) for prompt, p in clean.items()}
    network = process.network(lambda rows: torch.stack([table[int(row[0])].expand(2, -1) for row in rows]))
    t, s = (torch.tensor([time], dtype=FLOAT) for time in (T, S))
    before = torch.tensor([[z]])

    def reach(guess: Tensor) -> Tensor:
        return sampler.amend(process.reverse(before, guess, t, s), process, before, guess, t, s)

    logits, guess = sampler.predict(network, state, t, {})
    return sampler.guided(network, state, (t, s), StepLaw.of(logits, guess, reach(guess)), reach, {})


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_a_guided_step_is_the_product_of_two_laws_by_enumeration(process: Process, scale: float) -> None:
    """p(x_s | x_t, c)^(1 + w) p(x_s | x_t)^-w, normalised, at every token that x_t may be."""
    with_prompt, without = JOINT[0] / JOINT[0].sum(), JOINT[1] / JOINT[1].sum()
    for z in states(process):
        found = step_law(AncestralSampler(guidance=Guidance(scale, NULL)), process, z, {0: with_prompt, NULL: without})
        assert found.log is not None
        one, other = (step_by_enumeration(process, clean, z) for clean in (with_prompt, without))
        expected = torch.where(one > 0.0, one ** (1.0 + scale) * other.clamp(min=1e-300) ** -scale, 0.0)
        torch.testing.assert_close(found.log[0, 0, : K + 1].softmax(-1), expected / expected.sum())
        torch.testing.assert_close(found.own[0, 0, : K + 1], one)
        at = torch.tensor([[int(expected.argmax())]])
        ratio = one[at] / (expected / expected.sum())[at]
        torch.testing.assert_close(found.log_ratio(at, at >= 0), ratio.log()[0])


@dataclass(frozen=True)
class Bayes(Classifier):
    """p(y = 2 | x_t) of the token behind the prompt."""

    process: Process

    def __call__(self, tokens: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        noised = torch.stack([marginal(self.process, x, float(t[0])) for x in range(K)])
        both = JOINT @ noised
        return (both[2] / both.sum(0))[tokens[:, 1]].log()


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_a_step_guided_by_bayes_classifier_is_that_of_the_conditional_model(process: Process) -> None:
    """For one token, exactly: the network knows p(x) only, and the step is that of p(x | y)."""
    prior, posterior = JOINT.sum(0), JOINT[2] / JOINT[2].sum()
    sampler = AncestralSampler(classifier=ClassifierGuidance(Bayes(process), rows_per_call=2))
    for z in states(process):
        found = step_law(sampler, process, z, {0: prior})
        assert found.log is not None
        torch.testing.assert_close(found.log[0, 0, : K + 1].softmax(-1), step_by_enumeration(process, posterior, z))
    unguided = step_law(AncestralSampler(), process, z, {0: prior})
    assert unguided.log is None
    torch.testing.assert_close(unguided.own[0, 0, : K + 1], step_by_enumeration(process, prior, z))


@dataclass(frozen=True)
class Linear(Classifier):
    """Adds up a number for every token: first-order guidance is exact."""

    def __call__(self, tokens: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.of_weights(torch.nn.functional.one_hot(tokens, K + 2).float(), t, attention_mask)

    def of_weights(self, weights: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return (weights @ torch.linspace(-1.0, 2.0, K + 2)).mul(torch.tensor([0.0, 1.0])).sum(1) * t.float()


def test_first_order_guidance_is_exact_for_a_linear_classifier_and_in_every_grad_mode() -> None:
    process = HybridProcess(K, K, 0.3)
    for mode in (torch.no_grad(), torch.inference_mode()):
        laws = []
        for kind in (ClassifierGuidance, GradientGuidance):
            with mode:
                law = step_law(AncestralSampler(classifier=kind(Linear(), 1.5)), process, K, {0: JOINT.sum(0)}).log
            assert law is not None
            laws.append(law.softmax(-1))
        torch.testing.assert_close(*laws, rtol=1e-6, atol=1e-9)
        assert float(laws[0][0, 0, K - 1]) > 1.5 * float(laws[0][0, 0, 0])


TABLE = torch.randn(3, NULL + 1, NULL + 1, generator=torch.Generator().manual_seed(5))


def mixing(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits of a token that depend on it and on the mean over the row's real tokens."""
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
    each = TABLE[0][tokens]
    return TABLE[1][tokens] + (each * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None]


PARTS = {"guidance": Guidance(-1.0, NULL)}
GUIDED: list[tuple[Sampler, Process]] = [
    (AncestralSampler(3, **PARTS), HybridProcess(K, K, 0.3)),
    (AncestralSampler(3, **PARTS), MaskingProcess(K)),
    (PsiSampler(3, kappa=ConstantKappa(0.5), **PARTS), UniformProcess(K)),
    (GibbsSampler(3, positions=2, **PARTS), UniformProcess(K, posterior=True)),
    (CommitAndRenoise(3, **PARTS), UniformProcess(K)),
    (UnmaskingSampler(**PARTS), MaskingProcess(K)),
]


@pytest.mark.parametrize(("sampler", "process"), GUIDED, ids=lambda part: type(part).__name__)
def test_scale_minus_1_leaves_the_prompt_out_and_scale_0_changes_nothing(sampler: Sampler, process: Process) -> None:
    tokens = torch.tensor([[0, 1, 2, K, K, K, K]]).repeat(30, 1)
    given, bare = tokens != K, tokens.clone()
    bare[given] = NULL
    if process.mask_token_id is None:
        tokens, bare = tokens.masked_fill(~given, 0), bare.masked_fill(~given, 0)
    plain = replace(sampler, guidance=Guidance())  # type: ignore[type-var]
    asked = {"process": process, "given": given, "seed": 4}
    found = sampler(mixing, tokens, **asked).tokens
    assert torch.equal(found[given], tokens[given])
    assert torch.equal(found[~given], plain(mixing, bare, **asked).tokens[~given])
    unguided = plain(mixing, tokens, **asked).tokens
    assert not torch.equal(found, unguided)
    none = replace(sampler, guidance=Guidance(0.0, NULL))  # type: ignore[type-var]
    assert torch.equal(none(mixing, tokens, **asked).tokens, unguided)
    strong = replace(sampler, guidance=Guidance(1.5, NULL))  # type: ignore[type-var]
    assert not torch.equal(strong(mixing, tokens, **asked).tokens, unguided)


def test_a_nucleus_cuts_the_law_with_the_prompt_and_nothing_comes_back() -> None:
    process = UniformProcess(K)
    guided = AncestralSampler(top_k=1, guidance=Guidance(3.0, NULL))
    found = step_law(guided, process, 1, {0: JOINT[0] / JOINT[0].sum(), NULL: JOINT[1] / JOINT[1].sum()})
    assert found.log is not None
    assert bool(found.answered.all())
    assert bool((found.log.isfinite() == (found.own > 0.0)).all())


def test_some_rows_lose_their_condition_and_segments_theirs() -> None:
    """At 0.3 of 600 rows 180 are expected, of 11.2 standard deviations: outside of +-56 in less than 1 of a million."""
    tokens = torch.full((600, 6), 2)
    tokens[:, 0], maskable = 3, torch.tensor([[False, True, True, True, False, True]]).expand(600, -1)
    real = torch.tensor([[True, True, True, True, False, False]]).expand(600, -1)
    batch = {"tokens": tokens, "maskable": maskable & real, "attention_mask": real}
    design = ConditionDropout(rate=0.3, null_token_id=NULL)
    draw = design(process_network(), UniformProcess(K), batch, random=RowRandom.from_seed(0, 600))
    lost = draw.tokens[:, 0] == NULL
    assert 124 <= int(lost.sum()) <= 236
    assert bool((draw.tokens[~lost, 0] == 3).all())
    assert bool((draw.tokens[:, 4] == 2).all())  # padding is no condition
    plain = IndependentMasks()(process_network(), UniformProcess(K), batch, random=RowRandom.from_seed(0, 600))
    assert torch.equal(draw.tokens[:, 1:], plain.tokens[:, 1:])
    assert torch.equal(draw.scored, plain.scored)

    segments = torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(600, -1)
    packed = {"tokens": tokens, "maskable": maskable, "segment_ids": segments}
    draw = design(process_network(), UniformProcess(K), packed, random=RowRandom.from_seed(0, 600))
    first, second = (draw.tokens[:, column] == NULL for column in (0, 4))
    assert 124 <= int(second.sum()) <= 236
    assert 20 <= int((first & second).sum()) <= 88  # independently: 54 of 7
    masks = ConditionDropout(ExactCounts(), rate=1.0)(
        process_network(),
        MaskingProcess(K),
        {"tokens": tokens, "maskable": maskable},
        random=RowRandom.from_seed(0, 600),
    )
    assert bool((masks.tokens[:, 0] == K).all())
    assert not bool(masks.scored[:, 0].any())


def process_network():  # type: ignore[no-untyped-def]
    return MaskingProcess(K).network(mixing)


def test_what_guidance_cannot_do_is_refused_by_name() -> None:
    tokens, given = torch.zeros(1, 3, dtype=torch.long), torch.tensor([[True, False, False]])
    asked = {"given": given}
    for sampler in (AncestralSampler(2, guidance=Guidance(1.0)), CommitAndRenoise(2, guidance=Guidance(1.0))):
        with pytest.raises(ValueError, match="null_token_id"):
            sampler(mixing, tokens, UniformProcess(K), **asked)
    guide = GradientGuidance(Bayes(UniformProcess(K)))
    with pytest.raises(ValueError, match=r"Bayes has no of_weights.*use ClassifierGuidance"):
        AncestralSampler(2, classifier=guide)(mixing, tokens, UniformProcess(K), **asked)
    with pytest.raises(ValueError, match="rows_per_call must be 1 or more"):
        ClassifierGuidance(Linear(), rows_per_call=0)
    with pytest.raises(ValueError, match="UniformProcess has no mask that could stand for a missing condition"):
        NELBO(ConditionDropout())(mixing, UniformProcess(K), tokens, random=RowRandom.from_seed(0, 1))
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
        ConditionDropout(rate=1.5)
    gap = NELBO(ConditionDropout()).bound_gap(MaskingProcess(K))
    assert gap is not None
    assert "0.1 of the rows" in gap
