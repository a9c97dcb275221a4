"""A sampler's likelihood is the law of its samples."""

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.autoregressive import AutoregressiveLM
from llada.backbones import BidirectionalTransformer
from llada.metrics import SamplerLikelihood, UnderSampler, next_token_log_likelihood
from llada.process import MaskingProcess, UniformProcess
from llada.samplers import (
    PRESETS,
    AllowLists,
    AncestralSampler,
    Binomial,
    Blocks,
    Comb,
    Confidence,
    Credit,
    Demote,
    DualCache,
    EditingSampler,
    EntropyBound,
    FirstHitting,
    Guidance,
    Hierarchy,
    LeftToRight,
    Margin,
    NegativeEntropy,
    NextToken,
    PerStep,
    PrefixCache,
    Proposal,
    Quota,
    RandomOrder,
    RegularExpression,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Spread,
    Stability,
    State,
    Stochastic,
    Threshold,
    Tied,
    TopProb,
    UnmaskingSampler,
)
from tests.helpers import ALL_SAMPLERS
from tests.samplers.test_oracle import FALSE_ALARMS, LANGUAGE, chi_square_p, oracle
from tests.samplers.test_regular import Words

VOCAB, LENGTH, ROWS = 3, 4, 8_000
MASK = VOCAB
PROCESS = MaskingProcess(MASK)
TEXTS = torch.cartesian_prod(*[torch.arange(VOCAB)] * LENGTH)
LETTERS = Words("a", "b", "c")
POWERS = (VOCAB + 1) ** torch.arange(LENGTH - 1, -1, -1)
TABLE = 1.5 * torch.randn((VOCAB + 1) ** LENGTH, LENGTH, VOCAB + 1, generator=torch.Generator().manual_seed(3))
ONE = torch.zeros(len(TEXTS), dtype=torch.int64)  # the same seed for every text
T = Proposal(temperature=1.0)


def table(tokens: Tensor) -> Tensor:
    """Any network: what it says of a position depends on the whole canvas."""
    return TABLE[(tokens * POWERS).sum(1)]


def preset(name: str) -> Sampler:
    arguments: dict[str, Any] = {"temperature": 1.0, "steps": 3, "top_p": None, "block_length": 2}
    known = inspect.signature(PRESETS[name]).parameters
    return PRESETS[name](**{key: value for key, value in arguments.items() if key in known})


DRAWN = {name: preset(name) for name in PRESETS if "temperature" in inspect.signature(PRESETS[name]).parameters}
DRAWN |= {name: sampler for name, sampler in ALL_SAMPLERS.items() if "cache" not in name}
del DRAWN["block_diffusion"]  # it keeps keys and values, which a table hasn't
SCORED: dict[str, Sampler] = {name: sampler for name, sampler in DRAWN.items() if sampler.likelihood_gap is None} | {
    "top_prob, tempered": UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(0.7, top_p=0.8)),
    "top_prob, filtered": UnmaskingSampler(Quota(3), TopProb(filtered=True), proposal=Proposal(2.0, top_k=2)),
    "threshold": UnmaskingSampler(Threshold(0.6), TopProb(), proposal=T),
    "stability": UnmaskingSampler(Stability(0.3, 0.5, history=1), TopProb(), proposal=T),
    "hierarchy": UnmaskingSampler(Hierarchy(0.6, 0.2), TopProb(), proposal=T),
    "entropy bound in blocks": UnmaskingSampler(EntropyBound(1.0), NegativeEntropy(), proposal=T, window=Blocks(3)),
    "spread": UnmaskingSampler(Quota(2), Spread(), proposal=T),
    "combs": UnmaskingSampler(Tied(), Comb(Margin(), 2), proposal=T),
    "left to right with a stop": UnmaskingSampler(
        PerStep(1), LeftToRight(), proposal=T, window=Blocks(2, stop_token_ids=1)
    ),
    "sliding with a stop": UnmaskingSampler(PerStep(1), Margin(), proposal=T, window=Sliding(2, stop_token_ids=1)),
    "guided": UnmaskingSampler(Quota(3), Margin(), proposal=T, guidance=Guidance(0.7)),
    "credit": UnmaskingSampler(Quota(3), Margin(), proposal=T, adjustments=(Credit(),)),
    "suppressed": UnmaskingSampler(Quota(3), Margin(), proposal=Proposal(1.0, suppress_tokens=(0,))),
    "allowed": UnmaskingSampler(Quota(2), Margin(), proposal=T, adjustments=(AllowLists({1: (0, 2), 3: (1,)}),)),
    "expression": UnmaskingSampler(
        PerStep(1), Margin(), proposal=T, adjustments=(RegularExpression("a?b+c?|a+", LETTERS),)
    ),
    "drawn order": UnmaskingSampler(PerStep(2), Stochastic(Margin(), 0.5), proposal=T),
}
BY_CHANCE = {
    "random",
    "ancestral",
    "ancestral, a step per mask",
    "ancestral to 1e-3",
    "tau-leaping",
    "first hitting",
    "drawn order",
}
BY_CHANCE |= {"first_hitting", "sedd_analytic", "tau_leaping", "random_remasking", "dream_origin"}
EXACT = {name: sampler for name, sampler in SCORED.items() if name not in BY_CHANCE}


def score(sampler: Sampler, texts: Tensor = TEXTS, **options: Any) -> Tensor:
    return sampler.likelihood(table, texts, PROCESS, seed=ONE[: len(texts)], **options).log_likelihood


@pytest.mark.parametrize("name", SCORED)
def test_the_probabilities_of_all_texts_add_up_to_one(name: str) -> None:
    result = SCORED[name].likelihood(table, TEXTS, PROCESS, seed=ONE)
    assert float(result.log_likelihood.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert result.is_exact is (name not in BY_CHANCE)
    assert result.generated.eq(LENGTH).all()


@pytest.mark.parametrize("name", EXACT)
def test_samples_follow_them(name: str) -> None:
    """Each would fail for one seed in a thousand; the calls are those of the sampling."""
    sampler = EXACT[name]
    sample = sampler(table, torch.full((ROWS, LENGTH), MASK), PROCESS, seed=1)
    result = sampler.likelihood(table, TEXTS, PROCESS)
    law = result.log_likelihood.exp()
    index = (sample.tokens * VOCAB ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
    counts = index.bincount(minlength=len(law)).double()
    assert counts[law == 0].sum() == 0
    assert chi_square_p(counts[law > 0], law[law > 0] * ROWS) > FALSE_ALARMS
    assert torch.equal(result.calls[index], sample.calls)


def test_the_comparison_finds_another_law() -> None:
    """An order that looks at drawn tokens has another law than the one that doesn't."""
    sample = UnmaskingSampler(PerStep(1), Confidence(), proposal=T)(table, torch.full((ROWS, LENGTH), MASK), PROCESS)
    law = score(UnmaskingSampler(PerStep(1), TopProb(), proposal=T)).exp()
    index = (sample.tokens * VOCAB ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
    assert chi_square_p(index.bincount(minlength=len(law)).double(), law * ROWS) < 1e-9


@pytest.mark.parametrize("order", [RandomOrder(), Spread(), Margin(), Stochastic(TopProb(), 0.3)], ids=repr)
@pytest.mark.parametrize("seed", [0, 5])
def test_with_the_optimal_denoiser_any_order_of_single_tokens_gives_the_law_of_the_language(
    order: Any, seed: int
) -> None:
    sampler = UnmaskingSampler(PerStep(1), order, proposal=T)
    possible = LANGUAGE.probabilities.flatten() > 0
    result = sampler.likelihood(oracle, LANGUAGE.rows[possible], MaskingProcess(LANGUAGE.mask_token_id), seed=seed)
    expected = LANGUAGE.probabilities.flatten()[possible].log().double()
    torch.testing.assert_close(result.log_likelihood, expected, rtol=0, atol=2e-5)


def test_the_mean_over_random_orders_is_a_bound_and_is_the_mean_over_all_of_them() -> None:
    """24 orders of 4 tokens: their mean by hand, against 4,000 drawn ones within 4 standard errors."""
    text = torch.tensor([[2, 0, 1, 1]])
    orders = [list(order) for order in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist() if len(set(order)) == 4]
    by_hand = []
    for order in orders:
        canvas, nats = torch.full((1, LENGTH), MASK), 0.0
        for place in order:
            logits = table(canvas)[0, place, :VOCAB].double()
            nats += float(logits.log_softmax(-1)[text[0, place]])
            canvas[0, place] = text[0, place]
        by_hand.append(nats)
    drawn = UnmaskingSampler(PerStep(1), RandomOrder(), proposal=T).likelihood(
        table, text.expand(4000, -1), PROCESS, seed=7
    )
    values = torch.tensor(by_hand, dtype=torch.float64)
    error = float(values.std()) / 4000**0.5
    assert float(drawn.log_likelihood.mean()) == pytest.approx(float(values.mean()), abs=4 * error)
    assert float(values.mean()) < float(values.logsumexp(0)) - torch.tensor(24.0).log()


def test_a_prompt_and_padding_cost_nothing() -> None:
    sampler = UnmaskingSampler(PerStep(1), Margin(), proposal=T)
    text = torch.tensor([[2, 0, 1, 1]])
    given = torch.tensor([[True, False, True, False]])
    answers = TEXTS.clone()
    answers[:, [0, 2]] = text[:, [0, 2]]
    answers = answers.unique(dim=0)
    result = sampler.likelihood(table, answers, PROCESS, given=given.expand(len(answers), -1))
    assert float(result.log_likelihood.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert result.generated.eq(2).all()
    padded = sampler.likelihood(
        lambda tokens, attention_mask: table(tokens), text, PROCESS, attention_mask=torch.tensor([[1, 1, 1, 0]])
    )
    assert padded.generated.tolist() == [3]


def test_what_is_never_written_has_no_probability() -> None:
    stop = UnmaskingSampler(PerStep(1), LeftToRight(), proposal=T, window=Blocks(2, stop_token_ids=1))
    behind, filled = torch.tensor([[0, 1, 2, 1]]), torch.tensor([[0, 1, 1, 1]])
    assert score(stop, behind).item() == -torch.inf
    assert score(stop, filled).item() > -torch.inf
    assert stop.likelihood(table, filled, PROCESS).calls.tolist() == [2]
    assert score(SCORED["suppressed"], torch.tensor([[0, 1, 1, 1]])).item() == -torch.inf


def test_from_left_to_right_on_a_causal_model_it_is_the_autoregressive_likelihood() -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(9, width=16, num_layers=2, num_heads=2, causal=True, shift=True).eval()
    process, text = MaskingProcess(8, predicts_mask=False), torch.randint(8, (5, 7))
    given = (torch.arange(7) < 2).expand(5, -1)
    expected = next_token_log_likelihood(backbone, process, text, ~given)
    for sampler in (
        NextToken(temperature=1.0),
        NextToken(temperature=1.0, cached=False),
        UnmaskingSampler(PerStep(1), LeftToRight(), proposal=T),
    ):
        result = sampler.likelihood(backbone, text, process, given=given)
        torch.testing.assert_close(result.log_likelihood, expected, rtol=1e-6, atol=1e-6)
        assert result.is_exact


@pytest.mark.parametrize("cache", [PrefixCache(), DualCache()], ids=repr)
def test_a_cache_has_a_law_of_its_own(cache: Any) -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(3, width=16, num_layers=2, num_heads=2, hidden_width=32).eval()
    for parameter in backbone.parameters():
        parameter.data.mul_(3.0)
    process, texts = MaskingProcess(2), torch.cartesian_prod(*[torch.arange(2)] * 6)
    kept = UnmaskingSampler(PerStep(1), Margin(), proposal=T, window=Blocks(3), cache=cache)
    plain = replace(kept, cache=type(UnmaskingSampler().cache)())
    laws = [s.likelihood(backbone, texts, process).log_likelihood.exp() for s in (kept, plain)]
    for law in laws:
        assert float(law.sum()) == pytest.approx(1.0, abs=1e-6)  # canvases of other rows differ by rounding
    assert (laws[0] - laws[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (UnmaskingSampler(Quota(3), proposal=T), "Confidence may choose positions by tokens that are drawn"),
        (UnmaskingSampler(Quota(3), Demote(Margin(), (1,)), proposal=T), "Demote may choose positions"),
        (UnmaskingSampler(Quota(3), Stochastic(Confidence(), 0.5), proposal=T), "Confidence may choose positions"),
        (UnmaskingSampler(Quota(3), Margin()), "at temperature 0 it writes one text"),
        (preset("remdm_cap"), "CappedRemasking takes tokens back"),
        (
            UnmaskingSampler(Quota(2), Margin(), proposal=T, adjustments=(RegularExpression("a*b?", LETTERS),)),
            "PerStep",
        ),
        (EditingSampler(), "replaces tokens that it has written"),
        (SpeculativeSampler(), "decodes greedily"),
        (AncestralSampler(), "several times"),
        (NextToken(), "at temperature 0"),
    ],
)
def test_samplers_without_a_likelihood_say_why(sampler: Sampler, reason: str) -> None:
    assert sampler.likelihood_gap is not None
    with pytest.raises(ValueError, match=reason):
        sampler.likelihood(table, TEXTS, PROCESS)


def test_every_sampler_of_the_library_says_whether_it_has_one() -> None:
    assert {name for name in DRAWN if DRAWN[name].likelihood_gap is None} >= {"ancestral", "margin", "entropy bound"}
    for sampler in (*DRAWN.values(), *ALL_SAMPLERS.values()):
        assert sampler.likelihood_gap is None or len(sampler.likelihood_gap) > 20


def test_a_text_with_a_mask_and_a_process_without_one_are_refused() -> None:
    sampler = UnmaskingSampler(PerStep(1), Margin(), proposal=T)
    with pytest.raises(ValueError, match="holds the mask token 3"):
        score(sampler, torch.tensor([[0, 1, MASK, 2]]))
    with pytest.raises(ValueError, match="AncestralSampler"):
        sampler.likelihood(table, TEXTS, UniformProcess(VOCAB))


def test_an_order_that_breaks_its_word_is_found_out() -> None:
    class Sly(Margin):
        def __call__(self, state: State) -> Tensor:
            return state.probability

    sampler = UnmaskingSampler(PerStep(1), Sly(), proposal=T)
    assert sampler.likelihood_gap is None  # the word is inherited
    with pytest.raises(ValueError, match="Sly scores positions by the tokens that are drawn"):
        score(sampler)


def test_an_amount_that_breaks_its_word_is_found_out() -> None:
    class Sly(Tied):
        def __call__(self, state: State) -> Tensor:
            return super().__call__(state) & ((state.drawn != 1) | (state.left[:, None] == 1))

    sampler = UnmaskingSampler(Sly(), Margin(), proposal=T)
    assert sampler.likelihood_gap is None
    with pytest.raises(ValueError, match="Sly chooses positions by the tokens that are drawn"):
        score(sampler)


def test_chance_draws_positions_only() -> None:
    """Binomial coins and first-hitting times: texts under one seed share their positions."""
    for sampler in (
        UnmaskingSampler(Binomial(3), RandomOrder(), proposal=T),
        UnmaskingSampler(PerStep(1), RandomOrder(), proposal=T, rates=FirstHitting()),
    ):
        result = sampler.likelihood(table, TEXTS, PROCESS, seed=ONE + 4)
        assert result.calls.unique().numel() == 1
        assert float(result.log_likelihood.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_spread_goes_by_the_number_read_backwards() -> None:
    canvas = torch.tensor([[MASK] * 8])
    steps = UnmaskingSampler(PerStep(2), Spread()).iterate(
        lambda tokens: torch.zeros(*tokens.shape, VOCAB + 1), canvas, PROCESS
    )
    assert [step.changed[0].nonzero()[:, 0].tolist() for step in steps] == [[0, 4], [2, 6], [1, 5], [3, 7]]
    gaps = torch.tensor([[0, MASK, MASK, 1, MASK, MASK, 2, MASK]])  # places of open positions count
    steps = UnmaskingSampler(PerStep(1), Spread()).iterate(
        lambda tokens: torch.zeros(*tokens.shape, VOCAB + 1), gaps, PROCESS
    )
    assert [step.changed[0].nonzero()[:, 0].tolist() for step in steps] == [[1], [7], [4], [2], [5]]
    blocks = UnmaskingSampler(PerStep(1), Spread(), window=Blocks(4)).iterate(
        lambda tokens: torch.zeros(*tokens.shape, VOCAB + 1), canvas, PROCESS
    )
    assert [step.changed[0].nonzero().item() for step in blocks] == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_comb_is_written_in_one_call_the_surest_first() -> None:
    """Positions 1, 3, 5, 7 are surer than 0, 2, 4, 6, whose gap at 4 is given."""
    canvas = torch.tensor([[MASK, MASK, MASK, MASK, 0, MASK, MASK, MASK, MASK]])
    sure = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0, 0.5, 2.0, 0.5, 2.0])  # combs count open positions: 5 is the fifth

    def model(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, VOCAB + 1)
        logits[..., 1] = sure
        return logits

    steps = list(UnmaskingSampler(Tied(), Comb(Margin(), 2)).iterate(model, canvas, PROCESS))
    assert [step.changed[0].nonzero()[:, 0].tolist() for step in steps] == [[1, 3, 6, 8], [0, 2, 5, 7]]
    assert steps[-1].calls.tolist() == [2]


@pytest.mark.parametrize(
    ("order", "message"),
    [(lambda: Comb(Margin(), 0), "stride must be 1 or more; got 0"), (lambda: Comb(Spread()), "combs")],
)
def test_impossible_combs_are_refused(order: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order()


def test_the_metric_is_the_mean_over_texts_with_its_error() -> None:
    sampler = SCORED["spread"]
    metric = SamplerLikelihood(sampler, bytes_per_token=2.0)
    for part in TEXTS.split(50):
        metric.update(table, PROCESS, part)
    nats = -score(sampler)
    estimate = metric.compute()
    assert float(estimate.nll) == pytest.approx(float(nats.mean()) / LENGTH, rel=1e-12)
    assert float(estimate.nll_se) == pytest.approx(float(nats.std()) / LENGTH / len(TEXTS) ** 0.5, rel=1e-9)
    assert float(estimate.bits_per_byte) == pytest.approx(float(estimate.nll) / 2.0 / math.log(2.0))
    assert metric.tokens_per_call == 2.0
    with pytest.raises(ValueError, match=r"no likelihood under .*at temperature 0"):
        SamplerLikelihood(UnmaskingSampler(PerStep(1), Margin()))


def test_answers_are_scored_under_a_sampler_one_by_one() -> None:
    estimator = UnderSampler(sampler=UnmaskingSampler(PerStep(1), Margin(), proposal=T, window=Blocks(2)))
    prompts, answers = [[2], [0, 1], [2]], [[0, 1, 1], [1, 2], [1]]

    def model(tokens: Tensor) -> Tensor:
        whole = torch.nn.functional.pad(tokens, (0, LENGTH - tokens.shape[1]), value=MASK)
        return table(whole)[:, : tokens.shape[1]]

    found = estimator(model, PROCESS, prompts, answers, seed=3)
    for prompt, answer, value in zip(prompts, answers, found.log_likelihood.tolist(), strict=True):
        text = torch.tensor([prompt + answer])
        given = torch.arange(text.shape[1])[None] < len(prompt)
        alone = estimator.sampler.likelihood(model, text, PROCESS, given=given)
        assert value == float(alone.log_likelihood)
    assert found.standard_error.tolist() == [0.0] * 3
    assert found.num_samples.tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match="no likelihood under"):
        UnderSampler(sampler=UnmaskingSampler())


def test_a_model_asks_the_sampler_also_where_it_is_autoregressive() -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(9, width=16, num_layers=1, num_heads=2, causal=True, shift=True)
    process = MaskingProcess(8, predicts_mask=False)
    twin = AutoregressiveLM(backbone, process)
    pairs = [[0, 1], [3]], [[2, 3], [4, 5, 6]]
    exact = twin.log_likelihood(*pairs)
    same = twin.log_likelihood(*pairs, estimator=UnderSampler(sampler=NextToken(temperature=1.0)))
    torch.testing.assert_close(same.log_likelihood, exact.log_likelihood, rtol=1e-6, atol=1e-6)
    other = twin.log_likelihood(*pairs, estimator=UnderSampler(sampler=NextToken(temperature=0.5)))
    assert (other.log_likelihood - exact.log_likelihood).abs().min() > 1e-3
