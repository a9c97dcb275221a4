"""Samples of a known language under its optimal denoiser, against the language itself.

Every test compares counts of all rows of the language with their expectation by Pearson's chi-square. For an exact
method the p-value is uniform, so each such test would fail for one seed in a thousand; the seeds are fixed. A method
that isn't exact has to be found out: its p-value must be below 1e-9.
"""

import pytest
import torch
from torch import Tensor

from llada.data.toy import ToyLanguage
from llada.noise import CosineSchedule
from llada.process import MaskingProcess
from llada.samplers import (
    Binomial,
    Blocks,
    Confidence,
    EntropyBound,
    FirstHitting,
    LeftToRight,
    Margin,
    NegativeEntropy,
    PerStep,
    Proposal,
    RandomOrder,
    Sampler,
    Sliding,
    Stochastic,
    TauLeaping,
    UnmaskingSampler,
)

LANGUAGE = ToyLanguage.dirichlet(vocab_size=3, length=4, concentration=0.7, seed=2)
PROCESS = MaskingProcess(LANGUAGE.mask_token_id)
DRAWN = Proposal(temperature=1.0)
ROWS = 20_000
CANVASES = torch.cartesian_prod(*[torch.arange(LANGUAGE.vocab_size + 1)] * LANGUAGE.length)
TABLE = LANGUAGE.oracle(CANVASES)  # of every canvas once, so that many steps are cheap
POWERS = (LANGUAGE.vocab_size + 1) ** torch.arange(LANGUAGE.length - 1, -1, -1)
FALSE_ALARMS, MISSES = 1e-3, 1e-9


def oracle(tokens: Tensor) -> Tensor:
    return TABLE[(tokens * POWERS).sum(1)]


def chi_square_p(counts: Tensor, expected: Tensor) -> float:
    """P(chi-square > what was observed); cells that expect less than 5 are put together."""
    small = expected < 5
    if small.any():
        counts = torch.cat((counts[~small], counts[small].sum()[None]))
        expected = torch.cat((expected[~small], expected[small].sum()[None]))
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0, dtype=torch.float64), statistic / 2))


def law_p(sampler: Sampler, process: MaskingProcess = PROCESS, prompt: int | None = None, rows: int = ROWS) -> float:
    """p-value of the samples, of the rows that begin with ``prompt`` if one is given."""
    tokens = torch.full((rows, LANGUAGE.length), LANGUAGE.mask_token_id)
    law = LANGUAGE.probabilities.flatten().clone()
    if prompt is not None:
        tokens[:, 0] = prompt
        law = law * (LANGUAGE.rows[:, 0] == prompt)
        law /= law.sum()
    sample = sampler(oracle, tokens, process, seed=0)
    counts = LANGUAGE.index(sample.tokens).bincount(minlength=len(law)).double()
    possible = law > 0
    assert counts[~possible].sum() == 0
    return chi_square_p(counts[possible], law[possible] * rows)


EXACT: dict[str, Sampler] = {
    "random order": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN),
    "left to right": UnmaskingSampler(PerStep(1), order=LeftToRight(), proposal=DRAWN),
    # An order may look at the distribution, if it doesn't look at the draw.
    "entropy": UnmaskingSampler(PerStep(1), order=NegativeEntropy(), proposal=DRAWN),
    "margin": UnmaskingSampler(PerStep(1), order=Margin(), proposal=DRAWN),
    "drawn order": UnmaskingSampler(PerStep(1), order=Stochastic(NegativeEntropy(), 0.3), proposal=DRAWN),
    "blocks": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN, window=Blocks(2)),
    "sliding": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN, window=Sliding(2)),
    "entropy bound of 0": UnmaskingSampler(EntropyBound(0.0), order=NegativeEntropy(), proposal=DRAWN),
    "first hitting": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN, rates=FirstHitting()),
}
BIASED: dict[str, Sampler] = {
    "two tokens per step": UnmaskingSampler(PerStep(2), order=RandomOrder(), proposal=DRAWN),
    "the order looks at the draw": UnmaskingSampler(PerStep(1), order=Confidence(), proposal=DRAWN),
    "temperature": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=Proposal(temperature=0.9)),
    "top-p": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=Proposal(temperature=1.0, top_p=0.9)),
    "few steps": UnmaskingSampler(Binomial(4), order=RandomOrder(), proposal=DRAWN),
    "few leaps": UnmaskingSampler(Binomial(4), order=RandomOrder(), proposal=DRAWN, rates=TauLeaping()),
    "entropy bound": UnmaskingSampler(EntropyBound(1.0), order=NegativeEntropy(), proposal=DRAWN),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_method_samples_the_language(name: str) -> None:
    assert law_p(EXACT[name]) > FALSE_ALARMS


@pytest.mark.parametrize("name", BIASED)
def test_the_test_finds_out_methods_that_are_not_exact(name: str) -> None:
    assert law_p(BIASED[name]) < MISSES


@pytest.mark.parametrize("name", ["random order", "entropy", "first hitting"])
def test_a_prompt_conditions(name: str) -> None:
    assert law_p(EXACT[name], prompt=1) > FALSE_ALARMS


@pytest.mark.parametrize("schedule", [None, CosineSchedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("rates", [None, TauLeaping()], ids=["ancestral", "leaping"])
def test_many_steps_are_nearly_exact(rates: TauLeaping | None, schedule: CosineSchedule | None) -> None:
    """With 4 masks over 200 steps two of them meet in about one row of thirty, too few for the test to see."""
    process = PROCESS if schedule is None else MaskingProcess(PROCESS.mask_token_id, schedule)
    sampler = UnmaskingSampler(Binomial(200), order=RandomOrder(), proposal=DRAWN)
    if rates is not None:
        sampler = UnmaskingSampler(Binomial(200), order=RandomOrder(), proposal=DRAWN, rates=rates)
    assert law_p(sampler, process, rows=ROWS // 4) > FALSE_ALARMS


def test_the_binomial_count_in_random_order_is_independent_coins() -> None:
    """How many masks a step leaves, against Binomial(L, t): four laws at false-alarm rate 1e-3 each."""
    tokens = torch.full((ROWS, LANGUAGE.length), LANGUAGE.mask_token_id)
    sampler = UnmaskingSampler(Binomial(5), order=RandomOrder(), proposal=DRAWN)
    k = torch.arange(LANGUAGE.length + 1).double()
    choose = (torch.lgamma(torch.tensor(5.0)) - torch.lgamma(k + 1) - torch.lgamma(5 - k)).exp()
    for index, step in enumerate(sampler.iterate(oracle, tokens, PROCESS)):
        left = 1 - (index + 1) / 5
        masked = PROCESS.is_masked(step.tokens)
        if left == 0:
            assert not masked.any()
            continue
        law = choose * left**k * (1 - left) ** (LANGUAGE.length - k)
        counts = masked.sum(1).bincount(minlength=LANGUAGE.length + 1).double()
        assert chi_square_p(counts, law * ROWS) > FALSE_ALARMS
        places = masked.sum(0).double()
        assert ((places - ROWS * left).abs() < 4.5 * (ROWS * left * (1 - left)) ** 0.5).all()


def test_the_p_value_is_that_of_the_chi_square_distribution() -> None:
    """The 99th percentile of 3 degrees of freedom is 11.345."""
    expected = torch.full((4,), 100.0, dtype=torch.float64)
    counts = expected + torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64) * (11.345 * 25) ** 0.5
    assert chi_square_p(counts, expected) == pytest.approx(0.01, abs=1e-5)
