"""Orders, proposals, plans and rates against numbers worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada.noise import CosineSchedule, LinearSchedule
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.rows import left_padding
from llada.samplers import (
    Ancestral,
    Blocks,
    CappedRemasking,
    Confidence,
    ConfidenceRemasking,
    Demote,
    FirstHitting,
    ForwardBackwardRemasking,
    LeftToRight,
    LoopRemasking,
    Margin,
    NegativeEntropy,
    Order,
    Proposal,
    RandomOrder,
    Rates,
    RescaledRemasking,
    Sliding,
    State,
    Stochastic,
    TauLeaping,
    VerifyingSampler,
    WholeCanvas,
    Window,
)
from llada.samplers.composed import stop_rows
from llada.samplers.layout import Span, first_column, first_true, plan, share_steps
from llada.samplers.propose import gumbel_argmax, inverse_cdf, keep_top_p
from llada.samplers.stopping import ended
from tests.helpers import step_of

MASK = 4
RANDOM = RowRandom.from_seed(0, 1)
P = torch.tensor([[[0.5, 0.3, 0.2, 0.0], [0.1, 0.6, 0.3, 0.0], [0.25, 0.25, 0.5, 0.0]]])


def propose(proposal: Proposal | None = None) -> State:
    logits = torch.cat((P.log() + 7.0, torch.full((1, 3, 1), 9.0)), -1)  # the mask would be the favourite
    columns, padding = torch.tensor([[2, 3, 5]]), torch.tensor([[1]])
    state = step_of(columns, MaskingProcess(MASK), random=RANDOM, offset=padding)
    return (proposal or Proposal())(logits, state, random=RANDOM)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Confidence(), [0.5, 0.6, 0.5]),
        (Confidence(without=(1,)), [0.5 / 0.7, 0.0, 0.5 / 0.75]),
        (Margin(), [0.2, 0.3, 0.25]),
        (LeftToRight(), [-1.0, -2.0, -4.0]),  # places count from the first real token
        (Demote(Confidence(), (2,)), [0.5, 0.6, torch.finfo(torch.float32).min / 2]),
    ],
    ids=str,
)
def test_scores(order: Order, expected: list[float]) -> None:
    torch.testing.assert_close(order(propose()).float(), torch.tensor([expected]))


def test_entropies() -> None:
    expected = [sum(p * math.log(p) for p in row if p > 0) for row in P[0].tolist()]
    torch.testing.assert_close(NegativeEntropy()(propose()), torch.tensor([expected]))


def test_scores_after_filtering() -> None:
    """Temperature 1/2 squares and renormalises; of the two best the rest is left out."""
    proposed = propose(Proposal(0.5, top_k=2))
    two = P.square().topk(2).values[:, :2]
    best = two / two.sum(-1, keepdim=True)
    filtered = Margin(filtered=True)(proposed)
    torch.testing.assert_close(filtered[:, :2], best[..., 0] - best[..., 1])
    chosen = proposed.filtered.softmax(-1).gather(-1, proposed.drawn[..., None]).squeeze(-1)
    torch.testing.assert_close(Confidence(filtered=True)(proposed), chosen)
    plain = P.gather(-1, proposed.drawn[..., None]).squeeze(-1)
    torch.testing.assert_close(Confidence()(proposed), plain)


def test_blind_and_drawn_orders_use_the_numbers_of_the_places() -> None:
    uniform = RANDOM.uniform(5)[:, [1, 2, 4]]
    assert torch.equal(RandomOrder()(propose()), uniform)
    gumbel = -(-RANDOM.fold_in(1).uniform(5)[:, [1, 2, 4]].log()).log()
    drawn = Stochastic(Margin(), 0.5)(propose())
    torch.testing.assert_close(drawn, torch.tensor([[0.4, 0.6, 0.5]], dtype=torch.float64) + gumbel)


def test_the_greedy_proposal_never_takes_the_mask_or_what_is_forbidden() -> None:
    assert propose().drawn.tolist() == [[0, 1, 2]]
    assert propose(Proposal(suppress_tokens=(1,))).drawn.tolist() == [[0, 2, 2]]
    torch.testing.assert_close(propose().probability, torch.tensor([[0.5, 0.6, 0.5]]))
    with pytest.raises(ValueError, match="token 5 is outside of the model's vocabulary of 5"):
        propose(Proposal(suppress_tokens=(5,)))


@pytest.mark.parametrize(
    ("proposal", "kept"),
    [
        (Proposal(1.0, top_k=1), [[0], [1], [2]]),
        (Proposal(1.0, top_k=2), [[0, 1], [1, 2], [0, 1, 2]]),  # the last two tie
        (Proposal(1.0, top_p=0.49), [[0], [1], [2]]),
        (Proposal(1.0, top_p=0.7), [[0, 1], [1, 2], [0, 2]]),  # of two that tie the first
        (Proposal(1.0, top_p=1.0), [[0, 1, 2], [0, 1, 2], [0, 1, 2]]),
    ],
    ids=str,
)
def test_filters(proposal: Proposal, kept: list[list[int]]) -> None:
    rows = propose(proposal).filtered[0] > -torch.inf
    assert [row.nonzero().flatten().tolist() for row in rows] == kept


def test_the_smallest_set_that_reaches_top_p() -> None:
    """At equality too, in numbers that floating point has exactly."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.75, 2), (0.8, 3), (0.875, 3), (1.0, 4)):
        assert int((keep_top_p(logits, top_p) > -torch.inf).sum()) == kept, top_p
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 1), (0.75, 2), (0.8, 2), (0.875, 3), (0.9, 3), (1.0, 4)):
        assert int((keep_top_p(logits, top_p, crossing=False) > -torch.inf).sum()) == kept, top_p


def test_a_draw_inverts_the_distribution_function() -> None:
    logits = P[0, 0].double().log()
    for u, token in ((1e-12, 0), (0.4999, 0), (0.5001, 1), (0.7999, 1), (0.8001, 2), (1 - 1e-12, 2)):
        assert int(inverse_cdf(logits, torch.tensor(u, dtype=torch.float64))) == token


def test_the_gumbel_draw() -> None:
    uniform = torch.tensor([0.1, 0.9, 0.5, 0.5], dtype=torch.float64)
    scores = [math.log(p) - math.log(-math.log(u)) for p, u in zip((0.5, 0.3, 0.2), (0.1, 0.9, 0.5), strict=True)]
    assert int(gumbel_argmax(P[0, 0].log(), uniform)) == scores.index(max(scores)) == 1


@pytest.mark.parametrize(
    ("window", "spans"),
    [
        (WholeCanvas(), [(5, 11)]),
        (Sliding(3), [(5, 11)]),
        (Blocks(4), [(3, 7), (7, 11)]),  # counted from the end
        (Blocks(4, from_start=True), [(4, 8), (8, 11)]),
        (Blocks(3), [(5, 8), (8, 11)]),
        (Blocks(20), [(0, 11)]),
    ],
    ids=str,
)
def test_spans(window: Window, spans: list[tuple[int, int]]) -> None:
    assert window.spans(5, 11) == spans


def test_every_row_shares_its_steps_by_its_own_masks() -> None:
    unknown = torch.zeros(4, 12, dtype=torch.bool)
    unknown[0, 2:], unknown[1, 9:], unknown[3, 1], unknown[3, 10] = True, True, True, True
    spans = plan(Blocks(4), 7, unknown)  # blocks of 4: 2, 4 and 4 masks, then 3 in the last block, none, and 1 and 1
    assert [span[:2] for span in spans] == [(0, 4), (4, 8), (8, 12)]
    assert [span.shares for span in spans] == [(2, 0, 0, 4), (3, 0, 0, 0), (2, 7, 0, 3)]
    assert [span.num_steps.tolist() for span in spans if span.num_steps is not None] == [
        [2, 0, 0, 4],
        [3, 0, 0, 0],
        [2, 7, 0, 3],
    ]
    assert plan(Blocks(4), 7, unknown[2:3]) == []
    assert [span.shares for span in plan(Blocks(4), None, unknown, on_grid=True)] == [
        (2, 0, 0, 1),
        (4, 0, 0, 0),
        (4, 3, 0, 1),
    ]
    assert all(span.shares is None for span in plan(Blocks(4), None, unknown))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 600) | st.none())
@example([0, 1, 0], 4)
def test_shares_of_steps(masks: list[int], steps: int | None) -> None:
    begun, total = sum(number > 0 for number in masks), sum(masks)
    if steps is not None and steps < begun:
        with pytest.raises(ValueError, match=rf"^{steps} steps can't be shared among {begun} blocks"):
            share_steps(steps, masks)
        return
    shares = share_steps(steps, masks)
    assert sum(shares) == (total if steps is None else steps * (total > 0))
    for share, number in zip(shares, masks, strict=True):
        assert (share > 0) == (number > 0)
        assert share <= number or (steps or 0) >= total
        assert share >= number or (steps is not None and steps < total)


@pytest.mark.parametrize(("blocks", "length", "each"), [(4, 8, 3), (3, 32, 32), (16, 8, 1), (5, 4, 9)])
def test_shares_of_equal_blocks_are_those_of_the_released_code(blocks: int, length: int, each: int) -> None:
    assert share_steps(blocks * each, [length] * blocks) == [each] * blocks


def test_columns() -> None:
    mask = torch.tensor([[False, True, False, True], [False, False, False, False], [False, False, True, False]])
    columns, valid = first_true(mask, 2)
    assert columns.tolist() == [[1, 3], [0, 1], [2, 0]]
    assert valid.tolist() == [[True, True], [False, False], [True, False]]
    assert first_column(mask).tolist() == [1, 3, 2]
    assert left_padding(mask, mask).tolist() == [[1], [4], [2]]
    assert left_padding(mask, None).tolist() == [[0], [0], [0]]


def test_stops() -> None:
    tokens = torch.tensor([[7, 1, 7, MASK], [7, MASK, 7, MASK], [7, 1, 2, 7]])
    fillable = torch.tensor([[False, True, True, True]]).expand(3, -1)
    state = replace(State.begin(MaskingProcess(MASK), tokens, None, RowRandom.from_seed(0, 3)), given=~fillable)
    early, late = Span(0, 2), Span(2, 4)
    assert stop_rows(state, Blocks(2, 7), early) is None  # one that was given isn't a stop
    step = stop_rows(state, Blocks(2, (7, 1)), late)
    assert step is not None
    assert step.tokens.tolist() == [[7, 1, 7, 7], [7, 7, 7, 7], [7, 1, 2, 7]]
    assert step.changed.tolist() == [[False, False, False, True], [False, True, False, True], [False] * 4]
    assert ended(tokens, (7,), ~fillable, tokens == MASK).tolist() == [True, False, True]
    assert ended(tokens, (5,), ~fillable, tokens == MASK).tolist() == [False, False, False]
    assert ended(tokens, (5, 1), ~fillable, tokens == MASK).tolist() == [True, False, True]


def step(
    k: int, steps: int, rates: Rates, process: MaskingProcess | None = None, left: int = 6, **fields: Any
) -> State:
    known = {"step": k, "num_steps": torch.tensor([steps]), "initial": torch.tensor([8]), "left": torch.tensor([left])}
    return step_of(torch.tensor([[0, 1, 2, 3]]), process or MaskingProcess(MASK), random=RANDOM, **known | fields)


ANCESTRAL_CASES = [(0, 4, 0.25), (1, 4, 1 / 3), (2, 4, 0.5), (3, 4, 1.0)]  # dt / t of t = 1, 3/4, 1/2, 1/4


@pytest.mark.parametrize(("k", "steps", "chance"), ANCESTRAL_CASES)
def test_linear_chances(k: int, steps: int, chance: float) -> None:
    for rates in (Ancestral(), TauLeaping(), CappedRemasking(0.0), RescaledRemasking(0.0), ConfidenceRemasking()):
        assert float(rates.unmask(step(k, steps, rates))) == pytest.approx(chance, rel=1e-9)
        assert float(rates.time(step(k, steps, rates))) == pytest.approx(1.0 - k / steps)
    eps = MaskingProcess(MASK, LinearSchedule(eps=1e-3))
    if k < 3:
        assert float(Ancestral().unmask(step(k, steps, Ancestral(), eps))) == pytest.approx(chance, rel=1e-9)


def test_a_grid_that_ends_above_0() -> None:
    rates = Ancestral(0.2)  # t = 1, 0.6, 0.2
    assert float(rates.time(step(1, 2, rates))) == pytest.approx(0.6)
    assert float(rates.unmask(step(0, 2, rates))) == pytest.approx(0.4)
    assert float(rates.unmask(step(1, 2, rates))) == 1.0


def test_tau_leaping_holds_the_rate() -> None:
    process = MaskingProcess(MASK, CosineSchedule())
    t = torch.tensor(0.75, dtype=torch.float64)
    chance = float(TauLeaping().unmask(step(1, 4, TauLeaping(), process)))
    assert chance == pytest.approx(float(process.schedule.loss_weight(t)) * 0.25)


def test_first_hitting_times_fall_as_powers_of_uniforms() -> None:
    rates = FirstHitting()
    u = RANDOM.uniform(3)[0]
    expected = float(u[0] ** (1 / 8) * u[1] ** (1 / 7) * u[2] ** (1 / 6))
    assert float(rates.time(step(2, 8, rates))) == pytest.approx(expected)
    assert float(rates.unmask(step(2, 8, rates))) == pytest.approx(1 / 6)


WRITTEN = torch.tensor([[False, True, True, False]])
SURE = torch.tensor([[math.nan, 0.9, 0.2, math.nan]])


def taken_back(rates: Rates, k: int, steps: int) -> Tensor:
    nothing = torch.zeros_like(WRITTEN)
    return rates.remask(step(k, steps, rates, open=~WRITTEN, given=nothing, stop=4, confidence=SURE))


@pytest.mark.parametrize(
    ("rates", "k", "sigma"),
    # Of ten linear steps: t = 0.7, s = 0.6 at k = 3, so alpha goes from 0.3 to 0.4 and sigma_max is 1;
    # t = 0.3, s = 0.2 at k = 7: from 0.7 to 0.8, sigma_max = 0.2 / 0.7.
    [
        (CappedRemasking(0.008), 3, 0.008),
        (CappedRemasking(0.9), 7, 0.2 / 0.7),
        (RescaledRemasking(0.5), 3, 0.5),
        (RescaledRemasking(0.5), 7, 0.1 / 0.7),
        (ForwardBackwardRemasking(), 3, 0.1 / 0.3),
        (ForwardBackwardRemasking(), 7, 0.1 / 0.7),
        (CappedRemasking(0.9), 9, 0.0),  # the last step ends with clean tokens only
    ],
    ids=str,
)
def test_remdm_rates_keep_the_marginal(rates: Rates, k: int, sigma: float) -> None:
    assert float(taken_back(rates, k, 10)) == pytest.approx(sigma, rel=1e-6, abs=1e-12)
    alpha_t, alpha_s, unmask = k / 10, (k + 1) / 10, float(rates.unmask(step(k, 10, rates)))
    assert unmask == pytest.approx((alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t))
    assert alpha_t * (1 - sigma) + (1 - alpha_t) * unmask == pytest.approx(alpha_s)


def test_remdm_doubts_the_unsure() -> None:
    doubt = [math.exp(-0.9), math.exp(-0.2)]
    expected = [0.0, *(0.2 / 0.7 * d / sum(doubt) for d in doubt), 0.0]
    assert taken_back(ConfidenceRemasking(), 7, 10)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert float(ConfidenceRemasking().unmask(step(7, 10, ConfidenceRemasking()))) == pytest.approx(1 / 3)


def test_remdm_loop_rises_holds_and_rises() -> None:
    rates = LoopRemasking(eta=0.02, t_on=0.55, t_off=0.05, alpha_on=0.9)
    alphas = [float(rates.alphas(step(k, 20, rates))[0]) for k in range(20)]
    before = [0.9 * (1.0 - (1.0 - k / 20 - 0.55) / 0.45) for k in range(9)]
    assert alphas[:9] == pytest.approx(before)  # t = 1, 0.95, ..., 0.6
    assert alphas[9:] == pytest.approx([0.9] * 11)  # t = 0.55, ..., 0.05
    assert float(taken_back(rates, 4, 20)) == 0.0
    assert float(taken_back(rates, 12, 20)) == pytest.approx(0.02)
    assert float(rates.unmask(step(12, 20, rates))) == pytest.approx(0.9 * 0.02 / 0.1)
    assert float(rates.time(step(12, 20, rates))) == pytest.approx(0.1)
    assert float(rates.unmask(step(19, 20, rates))) == 1.0


def test_a_share_of_the_masks_is_counted_as_python_counts_it() -> None:
    """0.29 * 100 is a little below 29 in double precision, and 29 in single."""
    sampler = VerifyingSampler(threshold=0.5, share=0.29, fewest=1, most=100, window=Blocks(100))

    def model(tokens: Tensor, shadow: Tensor) -> Tensor:
        return torch.tensor([9.0, 0.0]).expand(*tokens.shape, 2)

    first = next(iter(sampler.iterate(model, torch.ones(1, 100, dtype=torch.int64), MaskingProcess(1))))
    assert int((first.tokens == 0).sum()) == int(0.29 * 100) == 28
