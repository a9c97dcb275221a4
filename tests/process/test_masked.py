"""The forward process: the law of its masks, and what it never touches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llada.noise import LinearSchedule
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom

FALSE_ALARM = 1e-6
MASK = 9


def batch(rows: int, length: int) -> torch.Tensor:
    return torch.randint(MASK, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("t", [0.05, 0.5, 0.97])
def test_masks_are_independent_coins(t: float) -> None:
    rows, length = 4000, 12
    x_0 = batch(rows, length)
    noised = MaskingProcess(MASK).corrupt(x_0, torch.full((rows,), t), random=RowRandom.from_seed(1, rows))
    per_position = noised.scored.sum(0)
    for masked in per_position.tolist():
        assert stats.binomtest(masked, rows, t).pvalue > FALSE_ALARM / length
    counts = torch.bincount(noised.scored.sum(1), minlength=length + 1).double()
    expected = torch.tensor(stats.binom.pmf(range(length + 1), length, t)) * rows
    keep = expected > 5  # the chi-square law needs filled cells; the rest goes into one
    observed = torch.cat((counts[keep], counts[~keep].sum()[None]))
    wanted = torch.cat((expected[keep], expected[~keep].sum()[None]))
    assert stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > FALSE_ALARM


def test_the_schedule_decides_the_share() -> None:
    rows = 3000
    process = MaskingProcess(MASK, LinearSchedule(eps=0.5))
    noised = process.corrupt(batch(rows, 10), torch.ones(rows), random=RowRandom.from_seed(0, rows))
    assert stats.binomtest(int(noised.scored.sum()), rows * 10, 0.5).pvalue > FALSE_ALARM


def test_the_ends_of_time_are_exact() -> None:
    x_0, random = batch(5, 8), RowRandom.from_seed(0, 5)
    process = MaskingProcess(MASK)
    assert not process.corrupt(x_0, torch.zeros(5), random=random).scored.any()
    assert process.corrupt(x_0, torch.ones(5), random=random).scored.all()


def test_a_time_per_position() -> None:
    x_0 = batch(3, 4)
    t = torch.tensor([[0.0, 1.0, 0.0, 1.0]]).expand(3, 4)
    noised = MaskingProcess(MASK).corrupt(x_0, t, random=RowRandom.from_seed(0, 3))
    assert torch.equal(noised.scored, t.bool())


@given(seed=st.integers(0, 2**31), t=st.floats(0, 1))
def test_prompt_and_padding_are_never_touched(seed: int, t: float) -> None:
    x_0 = batch(3, 7)
    maskable = torch.arange(7) >= torch.tensor([[0], [3], [7]])
    noised = MaskingProcess(MASK).corrupt(x_0, torch.full((3,), t), maskable, random=RowRandom.from_seed(seed, 3))
    assert torch.equal(noised.tokens[~maskable], x_0[~maskable])
    assert not noised.scored[2].any()


def test_a_mask_token_in_the_data_is_not_among_the_masked() -> None:
    x_0 = torch.tensor([[MASK, 1, 2]])
    maskable = torch.tensor([[False, True, True]])
    noised = MaskingProcess(MASK).corrupt(x_0, torch.ones(1), maskable, random=RowRandom.from_seed(0, 1))
    assert noised.scored.tolist() == [[False, True, True]]


def test_a_row_has_its_noise_whatever_its_neighbours() -> None:
    process, x_0 = MaskingProcess(MASK), batch(4, 6)
    together = process.corrupt(x_0, torch.full((4,), 0.5), random=RowRandom.from_seed(7, 4))
    alone = process.corrupt(x_0[2:3], torch.full((1,), 0.5), random=RowRandom.from_seed(9, 1))
    assert torch.equal(together.tokens[2:3], alone.tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": torch.zeros(3)}, r"t must be \(B,\)"),
        ({"maskable": torch.ones(2, 4)}, "maskable must be bool"),
        ({"maskable": torch.ones(2, 3, dtype=torch.bool)}, "maskable must be bool"),
        ({"x_0": torch.zeros(2, 4)}, r"tokens must be \(B, L\) integers"),
        ({"x_0": torch.zeros(4, dtype=torch.long)}, r"tokens must be \(B, L\) integers"),
    ],
)
def test_bad_shapes_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = {"x_0": batch(2, 4), "t": torch.zeros(2), **change}
    with pytest.raises(ValueError, match=message):
        MaskingProcess(MASK).corrupt(**arguments, random=RowRandom.from_seed(0, 2))


def test_any_token_may_be_the_mask() -> None:
    noised = MaskingProcess(0).corrupt(
        torch.ones(1, 3, dtype=torch.long), torch.ones(1), random=RowRandom.from_seed(0, 1)
    )
    assert noised.tokens.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("predicts_mask", "tokens"), [(True, 5), (False, 4)])
def test_the_softmax_of_the_loss_has_the_mask_only_if_it_may_be_predicted(predicts_mask: bool, tokens: int) -> None:
    """Under equal logits a masked token costs the logarithm of how many tokens there are to choose from."""
    process = MaskingProcess(4, predicts_mask=predicts_mask)
    output = NELBO()(
        lambda x: torch.zeros(*x.shape, 5), process, torch.ones(3, 6).long(), random=RowRandom.from_seed(0, 3)
    )
    torch.testing.assert_close(output.scored_nll, output.num_scored.double() * math.log(tokens))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="mask_token_id must be a token id"):
        MaskingProcess(-1)


def test_conditioning() -> None:
    t = torch.tensor([0.25, 0.5])
    assert MaskingProcess(MASK).conditioning(t) == {}
    process = MaskingProcess(MASK, LinearSchedule(eps=1e-3), time_conditioned=True)
    expected = -torch.log(1 - 0.999 * t)
    torch.testing.assert_close(process.conditioning(t)["sigma"], expected)
    with pytest.raises(ValueError, match="finite sigma"):
        MaskingProcess(MASK, time_conditioned=True).conditioning(t)
