"""How many positions each rule takes, on scores worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import (
    Amount,
    Ancestral,
    AnnealedConfidence,
    Binomial,
    Blocks,
    Confidence,
    CosineQuota,
    Credit,
    DreamFloor,
    EntropyBound,
    Factor,
    FirstHitting,
    Hierarchy,
    Margin,
    NegativeEntropy,
    PerStep,
    Quota,
    Sliding,
    Stability,
    State,
    Threshold,
    ThresholdOrQuota,
    UnmaskingSampler,
)
from llada.samplers.state import NOTHING
from tests.helpers import step_of

MASK = 9
RANDOM = RowRandom.from_seed(0, 1)


def some(columns: list[int], scores: Tensor = NOTHING, **fields: Any) -> State:
    """Candidates of one row at these columns."""
    return step_of(torch.tensor([columns]), MaskingProcess(MASK), random=RANDOM, scores=scores, **fields)


def taken(
    amount: Amount, scores: list[float], *, step: int = 0, initial: int | None = None, positions: Sequence[int] = ()
) -> list[int]:
    """Which of one row's candidates are taken."""
    count = len(scores)
    state = some(
        list(positions) or list(range(count)),
        torch.tensor([scores]),
        step=step,
        num_steps=None if amount.steps is None else torch.tensor([amount.steps]),
        initial=torch.tensor([count if initial is None else initial]),
        left=torch.tensor([count]),
    )
    return amount(state)[0].nonzero().flatten().tolist()


def test_threshold() -> None:
    assert taken(Threshold(0.9), [0.95, 0.2, 0.9, 0.899]) == [0, 2]
    assert taken(Threshold(0.9), [0.1, 0.2, 0.15]) == [1]
    assert taken(Threshold(0.9), [0.2, 0.2]) == [0]  # of equal ones the leftmost


def test_factor() -> None:
    # With f = 1 the second best must reach 1 - 1/3, the third 1 - 1/4, the fourth 1 - 1/5.
    assert taken(Factor(1.0), [0.7, 0.76, 0.9]) == [1, 2]
    assert taken(Factor(1.0), [0.77, 0.78, 0.79]) == [0, 1, 2]
    assert taken(Factor(1.0), [0.1, 0.2]) == [1]
    # The released code takes one that fails if none is behind it.
    assert taken(Factor(1.0, last_passes=True), [0.1, 0.2]) == [0, 1]
    assert taken(Factor(1.0, last_passes=True), [0.1, 0.2, 0.3]) == [2]
    assert taken(Factor(1.0, last_passes=True), [0.7, 0.76, 0.9]) == [0, 1, 2]
    # One that fails stops the row, though a later one would pass: 0.79 < 1 - 1/5.
    assert taken(Factor(1.0), [0.99, 0.98, 0.97, 0.79, 0.5]) == [0, 1, 2]


def test_entropy_bound() -> None:
    # Sums without the largest: 0, 0.1, 0.3, 0.6.
    for gamma, expected in ((0.0, [1]), (0.11, [1, 2]), (0.29, [1, 2]), (0.31, [0, 1, 2]), (0.61, [0, 1, 2, 3])):
        assert taken(EntropyBound(gamma), [-0.3, -0.1, -0.2, -0.4]) == expected


def test_cosine_quota() -> None:
    left, counts = 10, []
    for step in range(4):
        now = len(taken(CosineQuota(4), [0.5] * left, step=step, initial=10))
        counts.append(now)
        left -= now
    assert counts == [1, 2, 4, 3]  # 10 cos(pi k / 8): 9.2, 7.1, 3.8, 0
    assert left == 0


def test_threshold_or_quota() -> None:
    rule = ThresholdOrQuota(2, 0.9, 4)  # of a block of 4 2 per step
    assert taken(rule, [0.95, 0.96, 0.97, 0.1]) == [0, 1, 2]
    assert taken(rule, [0.95, 0.96, 0.1, 0.2]) == [0, 1]
    assert taken(rule, [0.95, 0.5, 0.1, 0.6]) == [0, 3]
    assert taken(rule, [0.9, 0.9, 0.9, 0.9]) == [0, 1]  # strictly above
    assert taken(rule, [0.5, 0.6, 0.1]) == [0, 1]  # though a block has fewer masks
    assert [len(taken(ThresholdOrQuota(3, 0.9, 8), [0.5] * 8, step=k)) for k in range(3)] == [3, 3, 2]
    assert taken(ThresholdOrQuota(None, 0.9, 8), [0.5, 0.6, 0.1]) == [1]
    with pytest.raises(ValueError, match="counts on blocks of 8, but the window has blocks of 4"):
        UnmaskingSampler(ThresholdOrQuota(3, 0.9, 8), window=Blocks(4))


def test_hierarchy() -> None:
    # Runs of neighbours: {2, 3, 4}, {7}, {9, 10}.
    positions, scores = [2, 3, 4, 7, 9, 10], [0.5, 0.6, 0.3, 0.3, 0.2, 0.95]
    assert taken(Hierarchy(0.9, 0.4), scores, positions=positions) == [1, 5]
    assert taken(Hierarchy(0.9, 0.2), scores, positions=positions) == [1, 3, 5]
    assert taken(Hierarchy(0.49, 0.4), scores, positions=positions) == [0, 1, 5]
    assert taken(Hierarchy(0.5, 0.4), scores, positions=positions) == [1, 5]  # strictly above
    assert taken(Hierarchy(0.99, 0.99), scores, positions=positions) == [5]


@pytest.mark.parametrize("masks", [1, 7, 24])
@pytest.mark.parametrize("rule", [Quota(5), Quota(), PerStep(3), DreamFloor(5), DreamFloor()], ids=str)
def test_counts_that_are_told_beforehand_are_those_that_are_taken(rule: Amount, masks: int) -> None:
    total = masks if rule.steps is None else rule.steps
    left = [rule.masks_left(masks, k, total) for k in range(total + 1)]
    assert left[0] == masks
    assert left[-1] == 0
    for k, (before, after) in enumerate(pairwise(left)):
        assert before is not None
        assert after is not None
        if before:
            assert len(taken(rule, [0.5] * before, step=k, initial=masks)) == before - after
        assert rule.most(masks, k, total) == before - after


def test_stability_counts_the_steps_in_which_a_distribution_hardly_changed() -> None:
    rule = Stability(threshold=0.9, max_divergence=0.01, history=2).start()
    calm = []
    for p in (0.93, 0.95, 0.951, 0.952, 0.6, 0.95):
        logits = torch.tensor([[[p, 1.0 - p], [0.5, 0.5]]]).log()
        rule(some([0, 1], torch.tensor([[p, 0.5]]), logits=logits))
        calm.append(int(rule.calm[0, 0]))  # type: ignore[attr-defined]
    assert 0.95 * math.log(0.95 / 0.93) + 0.05 * math.log(0.05 / 0.07) < 0.01
    assert calm == [0, 1, 2, 3, 0, 0]


def test_stability_compares_with_the_step_in_which_a_row_last_asked_and_not_at_all_with_other_columns() -> None:
    rule = Stability(threshold=0.9, max_divergence=0.01, history=2).start()
    calm = []
    steps = (([0, 1], 0.95, True), ([0, 1], 0.5, False), ([0, 1], 0.95, True), ([2, 1], 0.95, True))
    canvas = {"tokens": torch.full((1, 3), MASK), "open": torch.ones(1, 3).bool()}
    for columns, p, asks in steps:
        logits = torch.tensor([[[p, 1.0 - p], [0.5, 0.5]]]).log()
        rule(some(columns, torch.tensor([[p, 0.5]]), logits=logits, valid=torch.full((1, 2), asks), **canvas))
        calm.append(rule.calm[0, columns].tolist())  # type: ignore[attr-defined]
    assert calm == [[0, 0], [0, 0], [1, 1], [0, 2]]


def test_stability_takes_what_is_sure_and_calm_else_the_best() -> None:
    rule, calm = Stability(0.9, 0.01, history=2, count=2), torch.tensor([[2, 1, 3, 2]])
    sure = some([0, 1, 2, 3], torch.tensor([[0.95, 0.99, 0.5, 0.92]]), step=1)
    assert rule.choose(sure, calm).tolist() == [[True, False, False, True]]
    early = replace(sure, step=0)  # of the window, whatever was calm before
    assert rule.choose(early, calm).tolist() == [[True, True, False, False]]
    unsure = some([0, 1, 2, 3], torch.tensor([[0.8, 0.7, 0.85, 0.1]]))
    assert rule.choose(unsure, calm).tolist() == [[True, False, True, False]]


def test_credit_grows_for_a_favourite_that_stays() -> None:
    run = Credit(decay=0.5, power=1.0, strength=2.0).start(some([0]))
    logits = torch.tensor([[[0.75, 0.25]]]).log()
    credit = 0.0
    for _ in range(3):
        credit = 0.5 * credit + 0.75
        bonus = run(logits, some([0])) - logits
        torch.testing.assert_close(bonus, torch.tensor([[[2.0 * math.log1p(credit), 0.0]]]))


def test_rules_that_need_other_scores_are_refused() -> None:
    for amount in (Threshold(), Factor(), Stability(), Hierarchy(), ThresholdOrQuota()):
        with pytest.raises(ValueError, match=r"NegativeEntropy scores aren't; use order=Confidence\(\)"):
            UnmaskingSampler(amount, order=NegativeEntropy())
    with pytest.raises(ValueError, match=r"use order=NegativeEntropy\(\)"):
        UnmaskingSampler(EntropyBound(), order=Margin())
    with pytest.raises(ValueError, match=r"use amount=PerStep\(1\)"):
        UnmaskingSampler(PerStep(2), order=Confidence(), rates=FirstHitting())
    with pytest.raises(ValueError, match="shares its steps among all masks"):
        UnmaskingSampler(Quota(8), window=Sliding(4))
    with pytest.raises(ValueError, match="takes 5 tokens per step"):
        UnmaskingSampler(PerStep(5), window=Sliding(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quota(0),
        lambda: Quota(-3),
        lambda: Binomial(10**9),
        lambda: CosineQuota(2.5),  # type: ignore[arg-type]
        lambda: DreamFloor(5000),
        lambda: ThresholdOrQuota(0),
        lambda: PerStep(0),
        lambda: Factor(0.0),
        lambda: EntropyBound(-1.0),
        lambda: DreamFloor(4, 0.0),
        lambda: Stability(history=0),
        lambda: Sliding(0),
        lambda: Ancestral(1.0),
        lambda: AnnealedConfidence(0.0),
        lambda: AnnealedConfidence(math.inf),
    ],
)
def test_numbers_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]


def test_blocks_and_steps_of_one_are_allowed() -> None:
    rule = ThresholdOrQuota(1, 0.4, 1)
    assert (rule.steps_per_block, rule.block_length) == (1, 1)
