"""Texts of any length: the sampler's law against the exact one, by a network that knows the language.

The statistical test has a false alarm about once in 1,000,000; the seed is fixed.
"""

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from llada.noise import LinearSchedule, PolynomialSchedule
from llada.process import InsertionProcess, MaskingProcess
from llada.samplers import (
    Confidence,
    InsertionSampler,
    LeftToRight,
    Margin,
    Order,
    Proposal,
    RandomOrder,
    UntilStop,
    canvas,
    finish,
    low_confidence,
)
from llada.samplers.length.insertion import poisson_quantile
from tests.flexible import BOS, MASK, MIXED, PROCESS, SIZE, Language, Oracle, Text, answers

MOST = 3


def exact_law(language: Language, steps: int) -> dict[Text, float]:
    """The law of what the sampler writes, by going through all that may happen in each step."""
    law: dict[Text, float] = {(BOS,): 1.0}
    for k in range(steps + 1):
        final = k == steps
        t, s = (1.0 - n / steps for n in ((k - 1, k) if final else (k, k + 1)))
        known, after = answers(language, min(max(round(t, 6), 1e-6), 1.0 - 1e-6)), defaultdict(float)
        for state, p in law.items():
            if p > 1e-9:
                for new, q in outcomes(state, known.get(state), t, s, final):
                    after[new] += p * q
        law = after
    return {state[1:]: p for state, p in law.items()}


def outcomes(state: Text, logits: Tensor | None, t: float, s: float, final: bool) -> list[tuple[Text, float]]:
    """What a step makes of a state, place by place: what a mask becomes, and how many masks come behind it.

    Args:
        state: tokens and masks.
        logits: the network's; None where nothing is missing and tokens have equal chances.
        t: when the step begins.
        s: when it ends.
        final: whether no mask comes any more.
    """
    found: list[tuple[Text, float]] = [((), 1.0)]
    for place, token in enumerate(state):
        law = [1.0 / MASK] * MASK if logits is None else logits[place, :MASK].softmax(-1).tolist()
        becomes = {a: (1.0 - s / t) * law[a] for a in range(MASK)} | {MASK: s / t} if token == MASK else {token: 1.0}
        mean = 0.0 if logits is None or final else (1.0 - s / t) * t * math.exp(float(logits[place, MASK]))
        before, found = found, []
        for text, p in before:
            free = MOST + 1 - len(state) - (len(text) - place)
            numbers = [math.exp(-mean) * mean**n / math.factorial(n) for n in range(free)]
            numbers.append(1.0 - sum(numbers))
            for end, q in becomes.items():
                found += [((*text, end, *[MASK] * n), p * q * r) for n, r in enumerate(numbers) if p * q * r > 1e-12]
    return found


def test_texts_have_the_law_of_the_sampler() -> None:
    rows, steps = 6000, 4
    law = exact_law(MIXED, steps)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-6)
    sampler = InsertionSampler(steps, MOST)
    sample = sampler(Oracle(MIXED), torch.tensor([[BOS, MASK, MASK]]).expand(rows, -1), PROCESS, seed=11)
    found: dict[Text, int] = defaultdict(int)
    for tokens, real in zip(sample.tokens, sample.attention_mask, strict=True):
        found[tuple(tokens[real].tolist()[1:])] += 1
    common = [text for text, p in law.items() if rows * p >= 5.0]
    cells = [(found[text], rows * law[text]) for text in common]
    cells.append((rows - sum(n for n, _ in cells), rows - sum(m for _, m in cells)))
    statistic = sum((n - m) ** 2 / m for n, m in cells if m > 5.0)
    freedom = len(cells) - 1
    assert freedom >= 8
    limit = freedom + 5.0 * math.sqrt(2.0 * freedom) + 10.0  # beyond the millionth part of chi-square's tail
    assert statistic < limit
    data = dict(MIXED)
    assert sum((n - rows * data.get(text, 1e-9)) ** 2 / (rows * data.get(text, 1e-9))
               for text, (n, _) in zip(common, cells, strict=False)) > limit  # fmt: skip


def test_the_law_tends_to_that_of_the_texts() -> None:
    distances = []
    for steps in (4, 8, 16):
        law = exact_law(MIXED, steps)
        wrong = sum(p for text, p in law.items() if text not in dict(MIXED))
        distances.append(0.5 * (wrong + sum(abs(law.get(text, 0.0) - p) for text, p in MIXED)))
    assert distances[0] > 1.6 * distances[1] > 2.5 * distances[2]


def test_a_poisson_number_is_drawn_by_inversion() -> None:
    mean = torch.tensor([0.0, 0.3, 2.0, 40.0, math.inf]).double()[:, None].expand(-1, 999)
    uniform = torch.linspace(0.0005, 0.9995, 999).double().expand(5, -1)
    number = poisson_quantile(mean, uniform, 100)
    for row in range(4):
        law = torch.distributions.Poisson(mean[row, 0].clamp(min=1e-300))
        total = law.log_prob(torch.arange(101.0).double()).exp().cumsum(0)
        assert number[row].tolist() == [int((total <= u).sum()) for u in uniform[row].tolist()]
    assert number[4].unique().tolist() == [100]
    assert poisson_quantile(mean, uniform, 3).max() == 3


def network(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Means little, but depends on all tokens of a row."""
    real = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask
    table = torch.randn(2 * SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = (table[:SIZE][tokens] * real[..., None]).sum(1, keepdim=True)
    logits = table[SIZE:][tokens] + 0.2 * whole.sin()
    logits[..., MASK] = logits[..., MASK].clamp(max=0.5)
    return logits


UNTIMED = InsertionProcess(MASK)
ROWS = [[BOS, 1, MASK, MASK, MASK, 2, 0], [BOS, MASK, 0, 1, MASK], [BOS, 2, MASK], [BOS, 1, 2]]


@pytest.mark.parametrize("order", [RandomOrder(), Confidence(), Margin(), LeftToRight()], ids=str)
def test_rows_keep_what_is_given_keep_to_their_room_and_are_what_they_are_alone(order: Order) -> None:
    sampler = InsertionSampler(6, 7, order, Proposal(0.8, top_p=0.9))
    tokens, mask, given = canvas(ROWS, 0, mask_token_id=MASK, pad_token_id=0)
    lengths = set()
    for seed in (0, 20, 40):
        steps = list(sampler.iterate(network, tokens, UNTIMED, given=given, seed=seed, attention_mask=mask))
        sample = finish(steps, tokens, given, mask)
        assert not (sample.tokens[sample.attention_mask] == MASK).any()
        assert sample.generated.max() <= 7
        for row, prompt in enumerate(ROWS):
            alone = sampler(network, torch.tensor([prompt]), UNTIMED, seed=seed + row)
            written = sample.tokens[row][sample.attention_mask[row]]
            assert alone.tokens[0][alone.attention_mask[0]].tolist() == written.tolist()
            assert alone.calls[0] == sample.calls[row]
            kept = sample.tokens[row][sample.given[row] & sample.attention_mask[row]]
            assert kept.tolist() == [token for token in prompt if token != MASK]
            lengths.add(int(alone.generated[0]))
        assert written.tolist() == ROWS[3]  # no gap: nothing comes, and no call is made
        assert sample.calls[3] == 0
        for step in steps:
            assert torch.equal(step.open, (step.tokens == MASK) & step.edit.real if step.edit else step.open)
    assert len(lengths) > 3


def test_greedy_text_comes_where_the_gaps_are() -> None:
    """The network misses two tokens behind BOS, and says of every mask what stands in front of it."""

    def author(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.full((*tokens.shape, SIZE), -40.0)
        logits[..., MASK] = torch.where((tokens == BOS) & (tokens[:, 1:2] == 0), 12.0, -40.0)
        logits[..., 1] = 0.0
        return logits

    sampler = InsertionSampler(3, 4, proposal=Proposal(0.0))
    sample = sampler(author, torch.tensor([[BOS, MASK, 0, MASK, 2]]), UNTIMED)
    assert sample.tokens.tolist() == [[BOS, 1, 1, 1, 1, 0, 2]]  # as many as there is room for
    assert sample.generated.tolist() == [4]


class Unwilling(RandomOrder):
    """A part that works with nobody."""

    def check(self, sampler: object) -> None:
        raise ValueError(f"not with {type(sampler).__name__}")


class Reluctant(Proposal):
    """Another one."""

    check = Unwilling.check


def test_what_does_not_fit_is_refused() -> None:
    tokens = torch.tensor([[BOS, MASK]])
    for options, message in (((0,), "must be 1 or more; got 0 and 256"), ((1, 0), "got 1 and 0")):
        with pytest.raises(ValueError, match=message):
            InsertionSampler(*options)
    for part in ({"order": Unwilling()}, {"proposal": Reluctant(1.0)}):
        with pytest.raises(ValueError, match="not with InsertionSampler"):
            InsertionSampler(**part)
    with pytest.raises(ValueError, match="inserts nothing; use InsertionProcess"):
        InsertionSampler()(network, tokens, MaskingProcess(MASK))
    with pytest.raises(ValueError, match="must begin with a token that is given"):
        InsertionSampler()(network, torch.tensor([[MASK, 1]]), UNTIMED)
    with pytest.raises(ValueError, match="nothing is known of segment_ids"):
        InsertionSampler()(network, tokens, UNTIMED, segment_ids=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="finds the length of a text by itself"):
        UntilStop(InsertionSampler(), 1, 9)
    with pytest.raises(ValueError, match="takes no constraints"):
        InsertionSampler().with_adjustments(network)
    with pytest.raises(ValueError, match="can come about in several ways"):
        InsertionSampler().likelihood(network, tokens, UNTIMED)
    with pytest.raises(ValueError, match="row 0 can't be decoded"):
        InsertionSampler(2)(lambda tokens: torch.full((*tokens.shape, SIZE), 9.0).fill_(math.nan), tokens, UNTIMED)


def test_gaps_of_a_known_length_are_filled_by_other_samplers() -> None:
    """The network's word on masks is no token."""
    loud = lambda tokens: torch.tensor([0.0, 1.0, 0.0, 0.0, 99.0]).expand(*tokens.shape, -1)  # noqa: E731
    process = InsertionProcess(MASK, PolynomialSchedule(2.0), insertion=LinearSchedule())
    assert low_confidence()(loud, torch.tensor([[BOS, MASK, MASK]]), process).tokens.tolist() == [[BOS, 1, 1]]
