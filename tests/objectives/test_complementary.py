"""Complementary masks: what they cover, and the bound that they estimate."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.noise import StratifiedTimes, UniformTimes
from llada.objectives import NELBO, ComplementaryPairs, ExactCounts, PerScored, UnitWeight
from llada.objectives.exact_counts import complementary
from llada.process import MaskingProcess
from llada.random import RowRandom
from tests.objectives.test_oracle import LANGUAGE, MASK, ROWS, exact_bound, table_model


class Watching:
    """A uniform model that keeps what it was given."""

    def __call__(self, tokens: Tensor, **arguments: Tensor) -> Tensor:
        self.tokens, self.arguments = tokens, arguments
        return torch.zeros(*tokens.shape, MASK + 1)


def test_the_two_masks_cover_the_row_and_share_one_token() -> None:
    watching, x_0 = Watching(), torch.zeros(50, 8, dtype=torch.long)
    maskable = torch.ones(50, 8, dtype=torch.bool)
    maskable[:, :2] = False
    mask = torch.ones(50, 8, dtype=torch.bool)
    output = NELBO(ComplementaryPairs())(
        watching,
        MaskingProcess(MASK),
        {"tokens": x_0, "maskable": maskable, "attention_mask": mask},
        random=RowRandom.from_seed(0, 50),
    )
    first, second = (watching.tokens == MASK).chunk(2)
    assert watching.arguments["attention_mask"].shape == (100, 8)
    assert torch.equal(first | second, maskable)
    assert (first & second).sum(1).tolist() == [1] * 50
    assert torch.equal(output.num_scored, first.sum(1))
    assert set(first.sum(1).tolist()) == set(range(1, 7))
    assert output.num_tokens.tolist() == [6] * 50


def test_constant_cross_entropy_has_no_variance() -> None:
    x_0 = torch.zeros(20, 9, dtype=torch.long)
    output = NELBO(ComplementaryPairs())(Watching(), MaskingProcess(MASK), x_0, random=RowRandom.from_seed(0, 20))
    expected = 9 * math.log(MASK + 1)
    torch.testing.assert_close(output.nelbo, torch.full((20,), expected, dtype=torch.float64))
    assert float(output.loss) == pytest.approx(expected / 9, rel=1e-6)


@pytest.mark.parametrize("times", [StratifiedTimes(), UniformTimes()], ids=repr)
def test_it_agrees_with_enumeration_for_any_model(times: Any) -> None:
    model, row = table_model(), torch.tensor([0, 2, 1, 1])
    output = NELBO(ComplementaryPairs(times))(
        model, MaskingProcess(MASK), row.expand(ROWS, -1), random=RowRandom.from_seed(2, ROWS)
    )
    standard_error = float(output.nelbo.std()) / math.sqrt(ROWS)
    # Five standard errors: a false alarm once in two million. A weight that is off by a tenth would be seen.
    assert abs(float(output.nelbo.mean()) - exact_bound(model, row)) < 5 * standard_error
    assert 5 * standard_error < 0.1 * exact_bound(model, row)


def test_a_pair_varies_less_than_two_independent_draws() -> None:
    x_0 = LANGUAGE.sample(1, torch.Generator().manual_seed(0)).expand(8000, -1)
    draws = [
        objective(LANGUAGE.oracle, MaskingProcess(MASK), x_0, random=RowRandom.from_seed(1, 8000)).nelbo
        for objective in (NELBO(ComplementaryPairs(UniformTimes())), NELBO(ExactCounts(UniformTimes())))
    ]
    assert float(draws[0].var()) < 0.5 * float(draws[1].var())


def test_the_training_weight_leaves_the_bound_alone() -> None:
    x_0, random = torch.tensor([[0, 2, 1, 1], [1, 1, 0, 2]]), RowRandom.from_seed(4, 2)
    plain, unit = (
        objective(table_model(), MaskingProcess(MASK), x_0, random=random)
        for objective in (NELBO(ComplementaryPairs()), NELBO(ComplementaryPairs(), UnitWeight(), PerScored()))
    )
    assert torch.equal(plain.nelbo, unit.nelbo)
    assert float(unit.denominator) == 2 * (4 + 1)
    assert float(plain.numerator) == pytest.approx(2 * float(plain.nelbo.sum()))


def test_rows_without_maskable_tokens_cost_nothing() -> None:
    x_0, maskable = torch.zeros(2, 5, dtype=torch.long), torch.tensor([[False] * 5, [True] * 5])
    output = NELBO(ComplementaryPairs())(
        Watching(), MaskingProcess(MASK), {"tokens": x_0, "maskable": maskable}, random=RowRandom.from_seed(0, 2)
    )
    assert output.nelbo[0] == 0.0
    assert output.nelbo[1] == pytest.approx(5 * math.log(MASK + 1))
    pair = complementary(maskable, torch.zeros_like(x_0), 2.0 * torch.ones_like(x_0), RowRandom.from_seed(0, 2))
    assert [masks.share[:, 0].tolist() for masks in pair] == [[1.0, 2 / 5], [1.0, 4 / 5]]


def test_gradcheck() -> None:
    x_0 = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
    weights = torch.randn(4 * 4, 4, dtype=torch.float64, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        model = lambda tokens: w[(tokens + 4 * torch.arange(tokens.shape[1]))].cumsum(1)  # noqa: E731
        return NELBO(ComplementaryPairs())(model, MaskingProcess(MASK), x_0, random=RowRandom.from_seed(6, 2)).loss

    assert torch.autograd.gradcheck(loss, (weights,))
