"""The bound against exact enumeration: with the optimal denoiser it equals the entropy, whatever the schedule."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.data.toy import ToyLanguage
from llada.noise import LinearSchedule, NoiseSchedule, StratifiedTimes, UniformTimes
from llada.objectives import (
    NELBO,
    ExactCounts,
    IndependentMasks,
    Objective,
    PerRow,
    PerScored,
    RandomLength,
    UnitWeight,
    llada_finetuning,
    llada_pretraining,
    masked_mean,
)
from llada.process import MaskingProcess
from llada.random import RowRandom
from tests.helpers import ALL_SCHEDULES

LANGUAGE = ToyLanguage.dirichlet(3, 4, concentration=0.3, seed=1)
MASK = LANGUAGE.mask_token_id
ROWS = 40_000


def table_model(seed: int = 0) -> Any:
    """An arbitrary denoiser: fixed random logits for every visible pattern, without any consistency."""
    size = (MASK + 1) ** LANGUAGE.length
    table = torch.randn(size, LANGUAGE.length, MASK + 1, generator=torch.Generator().manual_seed(seed)).double()
    powers = (MASK + 1) ** torch.arange(LANGUAGE.length)
    return lambda tokens: table[(tokens * powers).sum(1)]


def exact_bound(model: Any, row: Tensor) -> float:
    """sum over l of (1 / l) E_{|M| = l} [sum_{i in M} -log p(x_i | x_M)], by enumeration of all masks."""
    total, length = 0.0, len(row)
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        for chosen in sets:
            masked = torch.zeros(length, dtype=torch.bool)
            masked[list(chosen)] = True
            log_p = model(row.masked_fill(masked, MASK)[None]).log_softmax(-1)[0]
            nll = -log_p[torch.arange(length), row][masked].sum()
            total += float(nll) / count / len(sets)
    return total


def estimates(objective: Objective, model: Any, process: MaskingProcess, x_0: Tensor) -> Tensor:
    return objective(model, process, x_0, random=RowRandom.from_seed(2, len(x_0))).nelbo


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=lambda s: repr(s))
def test_the_optimal_bound_is_the_entropy_for_every_schedule(schedule: NoiseSchedule) -> None:
    x_0 = LANGUAGE.sample(ROWS, torch.Generator().manual_seed(0))
    nelbo = estimates(NELBO(), LANGUAGE.oracle, MaskingProcess(MASK, schedule), x_0)
    standard_error = float(nelbo.std()) / math.sqrt(ROWS)
    # Five standard errors: a false alarm once in two million; the width itself must be informative.
    assert abs(float(nelbo.mean()) - LANGUAGE.entropy()) < 5 * standard_error
    assert standard_error < 0.05 * LANGUAGE.entropy()


def test_the_optimal_exact_count_bound_is_the_entropy_too() -> None:
    x_0 = LANGUAGE.sample(ROWS, torch.Generator().manual_seed(0))
    nelbo = estimates(NELBO(ExactCounts()), LANGUAGE.oracle, MaskingProcess(MASK), x_0)
    standard_error = float(nelbo.std()) / math.sqrt(ROWS)
    assert abs(float(nelbo.mean()) - LANGUAGE.entropy()) < 5 * standard_error
    continuous = estimates(NELBO(), LANGUAGE.oracle, MaskingProcess(MASK), x_0)
    assert float(nelbo.var()) < float(continuous.var())


def test_a_worse_denoiser_has_a_larger_bound() -> None:
    # The test above has power: mixing the optimum with a uniform guess is seen at once.
    x_0 = LANGUAGE.sample(ROWS, torch.Generator().manual_seed(0))
    worse = lambda tokens: (0.6 * LANGUAGE.oracle(tokens)[..., :MASK].exp() + 0.4 / MASK).log()  # noqa: E731
    nelbo = estimates(NELBO(ExactCounts()), worse, MaskingProcess(MASK), x_0)
    assert float(nelbo.mean()) - LANGUAGE.entropy() > 10 * float(nelbo.std()) / math.sqrt(ROWS)


@pytest.mark.parametrize(
    "objective", [NELBO(), NELBO(IndependentMasks(UniformTimes())), NELBO(ExactCounts())], ids=repr
)
def test_both_estimators_agree_with_enumeration_for_any_model(objective: Objective) -> None:
    model, row = table_model(), torch.tensor([0, 2, 1, 1])
    nelbo = estimates(objective, model, MaskingProcess(MASK), row.expand(ROWS, -1))
    standard_error = float(nelbo.std()) / math.sqrt(ROWS)
    assert abs(float(nelbo.mean()) - exact_bound(model, row)) < 5 * standard_error


def test_the_bound_is_the_mean_over_all_orders() -> None:
    model, row = table_model(), torch.tensor([2, 0, 1, 2])
    total = 0.0
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        visible = torch.zeros(4, dtype=torch.bool)
        for i in order:
            log_p = model(row.masked_fill(~visible, MASK)[None]).log_softmax(-1)[0, i]
            total -= float(log_p[row[i]]) / len(orders)
            visible[i] = True
    assert exact_bound(model, row) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    "objective", [NELBO(), NELBO(ExactCounts()), llada_pretraining(), llada_finetuning()], ids=repr
)
def test_a_uniform_model_costs_the_log_of_the_vocabulary(objective: Objective) -> None:
    uniform = lambda tokens: torch.zeros(*tokens.shape, 50)  # noqa: E731
    x_0 = torch.randint(49, (4000, 30))
    output = objective(uniform, MaskingProcess(49), x_0, random=RowRandom.from_seed(0, 4000))
    # Standard error at constant cross-entropy c: c sqrt((ln 1000 - 1) / (L B)), below 0.7% here; LLaDA's eps adds 0.1%.
    assert float(output.loss) == pytest.approx(math.log(50), rel=0.035)
    excluding = objective(uniform, MaskingProcess(49, predicts_mask=False), x_0, random=RowRandom.from_seed(0, 4000))
    ratio = float(excluding.loss) / float(output.loss)
    assert ratio == pytest.approx(math.log(49) / math.log(50), rel=1e-6)


def test_the_exact_count_has_no_variance_at_constant_cross_entropy() -> None:
    uniform = lambda tokens: torch.zeros(*tokens.shape, 50)  # noqa: E731
    output = NELBO(ExactCounts())(
        uniform, MaskingProcess(49), torch.ones(64, 9).long(), random=RowRandom.from_seed(0, 64)
    )
    torch.testing.assert_close(output.nelbo, torch.full((64,), 9 * math.log(50), dtype=torch.float64))


def test_normalisers_divide_by_what_they_say() -> None:
    uniform = lambda tokens: torch.zeros(*tokens.shape, 50)  # noqa: E731
    maskable = torch.arange(8) >= torch.tensor([[0], [6], [7]])
    x_0, random = torch.ones(3, 8, dtype=torch.long), RowRandom.from_seed(3, 3)
    rows = {}
    for objective in (
        llada_pretraining(),
        NELBO(IndependentMasks(UniformTimes(1e-3))),
        llada_finetuning(),
        masked_mean(),
    ):
        output = objective(uniform, MaskingProcess(49), {"tokens": x_0, "maskable": maskable}, random=random)
        rows[type(objective.normaliser).__name__] = output
    nelbo = rows["PerToken"].nelbo
    assert float(rows["PerPosition"].loss) == pytest.approx(float(nelbo.sum()) / 24, rel=1e-6)
    assert float(rows["PerToken"].loss) == pytest.approx(float(nelbo.sum()) / (8 + 2 + 1), rel=1e-6)
    assert float(rows["PerRow"].loss) == pytest.approx(float((nelbo / torch.tensor([8, 2, 1])).mean()), rel=1e-6)
    assert float(rows["PerScored"].loss) == pytest.approx(math.log(50), rel=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        NELBO(),
        NELBO(ExactCounts()),
        llada_pretraining(),
        llada_finetuning(),
        masked_mean(0.1, 0.6),
        NELBO(weight=UnitWeight(), normaliser=PerScored()),
        NELBO(normaliser=PerRow()),
        RandomLength(NELBO(), 1.0),
    ],
    ids=repr,
)
def test_gradcheck(objective: Objective) -> None:
    x_0 = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
    weights = torch.randn(4 * 4, 4, dtype=torch.float64, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        model = lambda tokens: w[(tokens + 4 * torch.arange(tokens.shape[1]))].cumsum(1)  # noqa: E731
        return objective(model, MaskingProcess(MASK), x_0, random=RowRandom.from_seed(6, 2)).loss

    assert torch.autograd.gradcheck(loss, (weights,))


@pytest.mark.parametrize("objective", [NELBO(), NELBO(ExactCounts())], ids=repr)
def test_rows_without_maskable_tokens_cost_nothing(objective: Objective) -> None:
    x_0, maskable = torch.zeros(2, 5, dtype=torch.long), torch.tensor([[False] * 5, [True] * 5])
    uniform = lambda tokens: torch.zeros(*tokens.shape, 4)  # noqa: E731
    output = objective(
        uniform, MaskingProcess(3), {"tokens": x_0, "maskable": maskable}, random=RowRandom.from_seed(0, 2)
    )
    assert output.num_tokens.tolist() == [0, 5]
    assert float(output.nelbo[0]) == 0.0
    nothing = objective(
        uniform, MaskingProcess(3), {"tokens": x_0[:1], "maskable": maskable[:1]}, random=RowRandom.from_seed(0, 1)
    )
    assert float(nothing.loss) == 0.0


def test_a_row_already_full_of_masks_is_scored_as_any_other() -> None:
    x_0 = torch.full((2, 5), 3)
    uniform = lambda tokens: torch.zeros(*tokens.shape, 4)  # noqa: E731
    output = NELBO(ExactCounts())(uniform, MaskingProcess(3), x_0, random=RowRandom.from_seed(0, 2))
    torch.testing.assert_close(output.nelbo, torch.full((2,), 5 * math.log(4), dtype=torch.float64))


def test_random_length_cuts_whole_batches_at_the_stated_rate() -> None:
    lengths = []

    def model(tokens: Tensor, attention_mask: Tensor) -> Tensor:
        assert attention_mask.shape == tokens.shape
        lengths.append(tokens.shape[1])
        return torch.zeros(*tokens.shape, 4)

    x_0, mask = torch.zeros(2, 10, dtype=torch.long), torch.ones(2, 10, dtype=torch.bool)
    objective = RandomLength(NELBO(), 0.3)
    for step in range(1000):
        random = RowRandom.for_step(0, step, torch.arange(2), 2)
        objective(model, MaskingProcess(3), {"tokens": x_0, "attention_mask": mask}, random=random)
    # A cut has length 10 in a tenth of the cases: 0.27 of the batches are short. Five deviations of a binomial: 0.07.
    assert sum(length < 10 for length in lengths) / 1000 == pytest.approx(0.27, abs=0.07)
    assert set(lengths) == set(range(1, 11))


def test_stratified_times_lower_the_variance() -> None:
    uniform = lambda tokens: torch.zeros(*tokens.shape, 4)  # noqa: E731
    x_0, process = torch.zeros(8, 16, dtype=torch.long), MaskingProcess(3, LinearSchedule())

    def spread(objective: Objective) -> float:
        losses = [
            float(objective(uniform, process, x_0, random=RowRandom.for_step(1, step, torch.arange(8), 8)).loss)
            for step in range(400)
        ]
        return torch.tensor(losses).var().item()

    whole = NELBO(IndependentMasks(StratifiedTimes(t_min=0.05)), UnitWeight())
    assert spread(whole) < 0.5 * spread(NELBO(IndependentMasks(UniformTimes(t_min=0.05)), UnitWeight()))
