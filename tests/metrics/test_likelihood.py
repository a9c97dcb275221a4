"""Conditional likelihoods: LLaDA's own numbers, exact enumeration, unbiasedness, calibrated errors, independence."""

import math
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.data.toy import ToyLanguage
from llada.denoiser import CallableDenoiser
from llada.metrics import (
    BalancedMasks,
    ConditionalLikelihood,
    LikelihoodEstimate,
    MaskDesign,
    StratifiedCounts,
    greedy_match,
    masked_log_likelihood,
)
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from llada.samplers import Guidance
from tests.golden_models import arrays, tiny_llada, values

GOLDEN = values("llada-tiny", "loglik")
LLADA = MaskingProcess(mask_token_id=380)
CASES = [name for name in GOLDEN if name != "greedy_suffix"]
V = 3
TOY = MaskingProcess(mask_token_id=V)


def table_model(length: int, seed: int = 0) -> CallableDenoiser:
    """Arbitrary logits for every canvas of ``length`` tokens; no two conditionals of it belong together."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn((V + 1) ** length, length, V + 1, generator=generator, dtype=torch.float64) * 2
    powers = (V + 1) ** torch.arange(length)
    return CallableDenoiser(lambda tokens: table[(tokens * powers).sum(1)])


def sets(n: int) -> Tensor:
    """All 2^n - 1 sets, (2^n - 1, n) bool."""
    return torch.tensor([pattern for pattern in product([False, True], repeat=n) if any(pattern)])


def all_terms(model: Any, prompt: list[int], answer: list[int]) -> tuple[Tensor, Tensor]:
    """The sets M and f(M), written with nothing but a log-softmax."""
    masked = sets(len(answer))
    row = torch.tensor(prompt + answer)
    tokens = row.expand(len(masked), -1).clone()
    tokens[:, len(prompt) :][masked] = V
    log_p = model.logits(tokens).log_softmax(-1)[:, range(len(prompt), len(row)), answer]
    return masked, (log_p * masked).sum(1)


def bound(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The mean over l of the mean over sets of size l of (n / l) f(M)."""
    masked, f = all_terms(model, prompt, answer)
    size, n = masked.sum(1), len(answer)
    return float(torch.stack([(n / l * f[size == l]).mean() for l in range(1, n + 1)]).mean())  # noqa: E741


# LLaDA's own numbers


@pytest.mark.parametrize(
    ("dtype", "key", "rel"), [(torch.float32, "result", 1e-5), (torch.float64, "result_float64", 1e-7)]
)
@pytest.mark.parametrize("name", CASES)
def test_scores_of_the_reference_patterns(name: str, dtype: torch.dtype, key: str, rel: float) -> None:
    golden = arrays("llada-tiny", "loglik")
    perturbed, n = golden[f"{name}.perturbed"], len(golden[f"{name}.answer"])
    tokens = torch.cat((golden[f"{name}.prompt"], golden[f"{name}.answer"])).expand_as(perturbed).flatten(0, 1)
    masked = (perturbed == LLADA.mask_token_id).flatten(0, 1)
    answer = torch.zeros_like(masked)
    answer[:, -n:] = True
    guidance = Guidance(GOLDEN[name]["cfg_scale"])
    f = masked_log_likelihood(tiny_llada(dtype), LLADA, tokens, answer, masked, guidance=guidance).detach()
    rounds = (f * n / masked.sum(1)).view(perturbed.shape[:2]).mean(1)
    torch.testing.assert_close(rounds, -golden[f"{name}.batch_loss"], rtol=1e-5, atol=0)
    assert float(rounds.mean()) == pytest.approx(GOLDEN[name][key], rel=rel)


def test_a_single_token_costs_one_exact_sample() -> None:
    golden = arrays("llada-tiny", "loglik")
    estimate = ConditionalLikelihood()(tiny_llada(), LLADA, [golden["ans1.prompt"]], [golden["ans1.answer"]])
    assert float(estimate.log_likelihood) == pytest.approx(GOLDEN["ans1"]["result"], rel=1e-5)
    assert (estimate.num_samples.tolist(), estimate.standard_error.tolist()) == ([1], [0.0])


def test_greedy_match_is_the_reference_suffix_check() -> None:
    golden = arrays("llada-tiny", "loglik")
    prefix, right, wrong = (golden[f"greedy_suffix.{name}"] for name in ("prefix", "completion", "wrong_target"))
    assert greedy_match(tiny_llada(), LLADA, [prefix, prefix], [right, wrong]).tolist() == [True, False]


# The quantity itself


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_short_answers_are_enumerated_and_all_forms_of_the_bound_agree(n: int) -> None:
    prompt, answer = [2, 0], [i % V for i in range(n)]
    model = table_model(2 + n, seed=n)
    masked, f = all_terms(model, prompt, answer)
    size = masked.sum(1)
    # Form A, independent masks at t ~ U(0, 1): f(M) t^(l-1) (1-t)^(n-l) is a polynomial, which five nodes integrate.
    half, weights = torch.tensor(_GAUSS_5, dtype=torch.float64).T
    t = ((1 + half) / 2)[:, None]
    form_a = (weights[:, None] / 2 * f * t ** (size - 1) * (1 - t) ** (n - size)).sum()
    # Any order: each token given the prompt and those before it, over all n! orders (arXiv 2502.09992, equation 15).
    log_p = {}
    for pattern, _ in zip(masked.tolist(), f, strict=True):
        tokens = torch.tensor([prompt + [V if m else a for a, m in zip(answer, pattern, strict=True)]])
        log_p[tuple(pattern)] = model.logits(tokens)[0, 2:].log_softmax(-1)[range(n), answer]
    orders = list(permutations(range(n)))
    chain = sum(
        float(log_p[tuple(i not in order[:k] for i in range(n))][order[k]]) for order in orders for k in range(n)
    ) / len(orders)
    estimate = ConditionalLikelihood()(model, TOY, [prompt], [answer])
    assert float(estimate.log_likelihood) == pytest.approx(bound(model, prompt, answer), rel=1e-12)
    assert float(estimate.log_likelihood) == pytest.approx(float(form_a), rel=1e-12)
    assert float(estimate.log_likelihood) == pytest.approx(chain, rel=1e-12)
    assert estimate.num_samples.tolist() == [2**n - 1]
    assert estimate.standard_error.tolist() == [0.0]


_GAUSS_5 = [
    (sign * math.sqrt(5 + other * 2 * math.sqrt(10 / 7)) / 3, (322 - other * 13 * math.sqrt(70)) / 900)
    for sign in (-1, 1)
    for other in (-1, 1)
] + [(0.0, 128 / 225)]
"""Nodes and weights on [-1, 1]; exact up to degree 9."""


def test_the_optimal_denoiser_gets_the_true_likelihood() -> None:
    language = ToyLanguage.markov(V, 5, seed=3)
    rows = language.sample(6, torch.Generator().manual_seed(0))
    prompts, answers = rows[:, :2], rows[:, 2:]
    marginal = language.probabilities.sum((2, 3, 4)).log()
    expected = language.log_prob(rows) - marginal[rows[:, 0], rows[:, 1]]
    estimate = ConditionalLikelihood()(language.oracle, TOY, list(prompts), list(answers))
    torch.testing.assert_close(
        estimate.log_likelihood, expected, rtol=1e-6, atol=0
    )  # chances are normalised in float32


@pytest.mark.parametrize("masks", [StratifiedCounts(), BalancedMasks()])
def test_equal_tokens_have_no_variance(masks: MaskDesign) -> None:
    estimate = ConditionalLikelihood(64, 16, masks)(
        lambda tokens, **_: torch.zeros(*tokens.shape, V + 1, dtype=torch.float64), TOY, [[0], []], [[1] * 9, [2] * 30]
    )
    expected = torch.tensor([-9.0, -30.0], dtype=torch.float64) * math.log(V + 1)
    torch.testing.assert_close(estimate.log_likelihood, expected, rtol=1e-12, atol=0)
    assert float(estimate.standard_error.max()) < 1e-12


# Estimates: unbiased, calibrated, and what a design is worth

ANSWER = [0, 1, 2, 1, 0]


def repeated(masks: MaskDesign, num_pairs: int, num_samples: int, batch_size: int) -> LikelihoodEstimate:
    """The same pair with the seeds 0, 1, 2, ..."""
    estimator = ConditionalLikelihood(num_samples, batch_size, masks, rows_per_call=4096)
    return estimator(table_model(6), TOY, [[1]] * num_pairs, [ANSWER] * num_pairs)


@pytest.mark.parametrize("masks", [StratifiedCounts(), BalancedMasks(), BalancedMasks(group_size=2)])
def test_estimates_are_unbiased_and_their_errors_calibrated(masks: MaskDesign) -> None:
    estimate = repeated(masks, num_pairs=600, num_samples=24, batch_size=4)
    exact, mean = bound(table_model(6), [1], ANSWER), float(estimate.log_likelihood.mean())
    spread = float(estimate.log_likelihood.std())
    assert estimate.num_samples.tolist() == [24] * 600
    assert abs(mean - exact) < 4 * spread / math.sqrt(600)  # false alarm in 6e-5 of the seeds
    # Relative deviation of the two variances: sqrt(2 / 599) and about sqrt(2 / (600 * 5)), together 0.063; 4 of them.
    assert spread**2 == pytest.approx(float(estimate.standard_error.square().mean()), rel=0.25)


def test_a_biased_design_would_be_noticed() -> None:
    # The model is sure where an even number of tokens is masked, and knows nothing where it is odd. Two of four copies
    # of ten tokens should have an even number; rounding halves to even makes it three.
    def parity(tokens: Tensor) -> Tensor:
        even = ((tokens == V).sum(1) % 2 == 0).double()
        return (even[:, None, None] * torch.tensor([60.0, 0, 0, 0])).expand(*tokens.shape, V + 1)

    def estimates(masks: MaskDesign) -> Tensor:
        estimator = ConditionalLikelihood(8, 4, masks, rows_per_call=4096)
        return estimator(parity, TOY, [[]] * 400, [[0] * 10] * 400).log_likelihood

    exact = -10 * math.log(4.0) / 2
    torch.testing.assert_close(estimates(StratifiedCounts()), torch.full((400,), exact).double())
    torch.testing.assert_close(estimates(BalancedMasks()), torch.full((400,), exact).double())
    biased = estimates(StratifiedCounts(reference_rounding=True))
    torch.testing.assert_close(biased, torch.full((400,), exact / 2).double())


def test_balanced_masks_halve_the_variance_where_tokens_differ() -> None:
    # Token i costs i nats more or less whatever is visible: a language whose words are not equally surprising.
    logits = torch.linspace(0, 4, 24, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0, 0, 0])

    def variance(masks: MaskDesign) -> float:
        estimator = ConditionalLikelihood(32, 32, masks, rows_per_call=4096)
        model = lambda tokens: logits.expand(*tokens.shape, V + 1)  # noqa: E731
        return float(estimator(model, TOY, [[]] * 200, [[0] * 24] * 200).log_likelihood.var())

    assert variance(BalancedMasks()) < 0.5 * variance(StratifiedCounts())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_an_answer_is_enumerated_if_its_sets_are_exactly_as_many_as_the_samples(n: int) -> None:
    for num_samples, exact in ((2**n - 1, True), (2**n, True), (2**n - 2, False)):
        if num_samples:
            estimator = ConditionalLikelihood(num_samples, batch_size=num_samples)
            found = estimator(table_model(n + 1), TOY, [[0]], [[1] * n])
            assert found.num_samples.item() == (2**n - 1 if exact else num_samples)
            assert (found.standard_error.item() == 0.0) is exact


def test_one_batch_has_no_standard_error() -> None:
    assert repeated(StratifiedCounts(), 1, 8, 8).standard_error.isnan().all()


# Stopping


def test_pairs_stop_when_they_are_precise_enough() -> None:
    model, rows = table_model(6), 40
    estimator = ConditionalLikelihood(24, 4, StratifiedCounts(), target_se=1.5, min_samples=8)
    stopped = estimator(model, TOY, [[1]] * rows, [ANSWER] * rows)
    used = stopped.num_samples
    assert set(used.tolist()) > {8, 24}
    assert bool((stopped.standard_error[used < 24] <= 1.5).all())
    for pair in (int((used == 8).nonzero()[0]), int((used == 24).nonzero()[0])):
        fixed = ConditionalLikelihood(int(used[pair]), 4, StratifiedCounts())(model, TOY, [[1]], [ANSWER], seed=pair)
        torch.testing.assert_close(fixed.log_likelihood[0], stopped.log_likelihood[pair])
        torch.testing.assert_close(fixed.standard_error[0], stopped.standard_error[pair])


def test_a_precise_pair_is_only_enumerated_if_it_costs_no_more_than_the_first_look() -> None:
    model = table_model(6)
    precise = ConditionalLikelihood(64, 8, target_se=100.0, min_samples=16)(
        model, TOY, [[1], [1, 0]], [ANSWER, [2] * 4]
    )
    assert precise.num_samples.tolist() == [16, 15]


# Many pairs at once

PROMPTS = [[5, 9, 4], [], [7], [1, 2, 3, 4, 5, 6]]
ANSWERS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [8, 7], [11] * 12, [42]]


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_an_estimate_does_not_depend_on_its_neighbours(guidance: float) -> None:
    model = tiny_llada(torch.float64)

    def estimate(which: list[int], rows_per_call: int) -> LikelihoodEstimate:
        estimator = ConditionalLikelihood(8, 4, guidance=Guidance(guidance), rows_per_call=rows_per_call)
        prompts, answers = [PROMPTS[i] for i in which], [ANSWERS[i] for i in which]
        return estimator(model, LLADA, prompts, answers, seed=torch.tensor(which) + 10)

    together = estimate([0, 1, 2, 3], 64)
    small, shuffled = estimate([0, 1, 2, 3], 3), estimate([2, 0, 3, 1], 7)
    for name in LikelihoodEstimate._fields:
        torch.testing.assert_close(getattr(small, name), getattr(together, name))
        torch.testing.assert_close(getattr(shuffled, name), getattr(together, name)[[2, 0, 3, 1]])
    for i in range(4):
        torch.testing.assert_close(estimate([i], 64).log_likelihood[0], together.log_likelihood[i])


def test_seeds_give_different_masks() -> None:
    first, second, again = (repeated(StratifiedCounts(), n, 8, 4).log_likelihood for n in (1, 2, 2))
    assert torch.equal(first[0], second[0])
    assert second[0] != second[1]
    assert torch.equal(second, again)


def test_greedy_match_does_not_depend_on_neighbours() -> None:
    model = tiny_llada()
    golden = arrays("llada-tiny", "loglik")
    prefix, right, wrong = (golden[f"greedy_suffix.{name}"] for name in ("prefix", "completion", "wrong_target"))
    prompts, answers = [prefix[:2], prefix, prefix, *PROMPTS], [wrong, wrong, right, *ANSWERS]
    for rows_per_call in (2, 64):
        matches = greedy_match(model, LLADA, prompts, answers, rows_per_call=rows_per_call)
        assert matches.tolist() == [False, False, True, False, False, False, False]


def test_greedy_match_looks_at_the_answer_only() -> None:
    twos = torch.eye(V + 1)[2].expand
    matches = greedy_match(lambda tokens, **_: twos(*tokens.shape, V + 1), TOY, [[V, 0], [1]], [[2, 2], [2, 1]])
    assert matches.tolist() == [True, False]  # a hole in the prompt is filled too, and has no right answer


class Recorder(CallableDenoiser):
    """Keeps what the model was asked."""

    def __init__(self) -> None:
        super().__init__(lambda tokens, **_: torch.zeros(*tokens.shape, V + 1))
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def token_nll(self, tokens: Tensor, targets: Tensor, where: Tensor, **kwargs: Any) -> Tensor:
        self.calls.append((tokens, where, kwargs))
        return super().token_nll(tokens, targets, where, **kwargs)


def test_the_prompt_is_untouched_and_the_head_runs_at_masked_tokens_only() -> None:
    recorder, prompts, answers = Recorder(), [[0, 1, 2, 1], [2]], [[1] * 6, [2, 2, 0, 1, 0, 2, 1]]
    ConditionalLikelihood(4, 4, rows_per_call=8)(recorder, TOY, prompts, answers)
    ((tokens, where, kwargs),) = recorder.calls  # both pairs share the call
    rows = torch.tensor([[0, 1, 2, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 0, 1, 0, 2, 1, 0, 0]]).repeat_interleave(4, 0)
    answer = torch.tensor([[0] * 4 + [1] * 6, [0] + [1] * 7 + [0] * 2]).bool().repeat_interleave(4, 0)
    real = torch.tensor([[1] * 10, [1] * 8 + [0] * 2]).bool().repeat_interleave(4, 0)
    assert torch.equal(kwargs["attention_mask"], real)
    assert torch.equal(where, tokens == V)
    assert not (where & ~answer).any()
    assert torch.equal(tokens[~where], rows[~where])
    assert bool(where.any(1).all())


def test_rows_of_one_length_need_no_attention_mask() -> None:
    recorder = Recorder()
    ConditionalLikelihood(4, 4)(recorder, TOY, [[0], [1, 2]], [[1] * 6, [0] * 5])
    assert "attention_mask" not in recorder.calls[0][2]


def test_a_time_conditioned_model_is_told_the_share_of_masks() -> None:
    recorder, process = Recorder(), MaskingProcess(V, LinearSchedule(eps=1e-3), time_conditioned=True)
    ConditionalLikelihood(8, 8)(recorder, process, [[0]], [[1] * 8])
    ((_, where, kwargs),) = recorder.calls
    torch.testing.assert_close(
        kwargs["sigma"], -torch.log1p(-where.sum(1) / 8).clamp(max=-math.log(1e-3)), rtol=2e-3, atol=0
    )


# Errors


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([[1], [2]], [[1], []], "answer 1 has no tokens"),
        ([[1]], [[1], [2]], "1 prompts and 2 answers"),
        ([], [], "0 prompts and 0 answers"),
    ],
)
def test_bad_pairs_are_named(prompts: list[list[int]], answers: list[list[int]], message: str) -> None:
    for call in (ConditionalLikelihood(), greedy_match):
        with pytest.raises(ValueError, match=message):
            call(table_model(2), TOY, prompts, answers)


def test_a_pair_longer_than_the_model_is_refused_by_it() -> None:
    model = BidirectionalTransformer(8, width=16, num_layers=1, num_heads=2, max_length=6)
    with pytest.raises(ValueError, match="the row has 7 tokens but this backbone accepts at most max_length=6"):
        ConditionalLikelihood()(model, MaskingProcess(7), [[1, 2, 3, 4]], [[1, 2, 3]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 100}, "multiple of batch_size"),
        ({"batch_size": 0}, "multiple of batch_size"),
        ({"rows_per_call": 0}, "rows_per_call must be 1 or more"),
        ({"target_se": 0.0}, "target_se must be above 0"),
        ({"target_se": 0.1, "min_samples": 32}, "at least two batches, 64"),
        ({"target_se": 0.1, "min_samples": 256}, "at most num_samples=128"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionalLikelihood(**settings)
