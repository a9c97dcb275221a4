"""Which tokens are absent, masked and clean, and what is missing where.

The statistical test allows five standard errors, a false alarm about once in 2,000,000; the seed is fixed.
"""

import math

import pytest
import torch

from llada.noise import LinearSchedule, NoiseSchedule, PolynomialSchedule
from llada.process import InsertionProcess
from llada.process.insertion import gaps_of
from llada.random import RowRandom

MASK, PAD = 63, 0
ROWS, LENGTH = 2000, 10


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens that are all different, behind two given ones, with padding at either end; and one given in the middle."""
    tokens = torch.arange(1, LENGTH + 1).repeat(ROWS, 1)
    real = torch.ones_like(tokens).bool()
    real[::3, 0], real[::4, -1] = False, False
    maskable = real.clone()
    maskable[:, :2], maskable[:, 5] = False, False
    return tokens.masked_fill(~real, PAD), maskable, real


def share_of_masks(process: InsertionProcess, t: float) -> float:
    """P(masked), by the integral over when a token came."""
    u = (
        (torch.arange(20000).double() + 0.5)
        / 20000
        * (1.0 - float(process.insertion.mask_probability(torch.tensor(t))))
    )
    came = process.insertion.time_at(1.0 - u)
    masked = process.schedule.mask_probability(torch.tensor(t).double()) / process.schedule.mask_probability(came)
    return float(masked.mean()) * (1.0 - float(process.insertion.mask_probability(torch.tensor(t))))


@pytest.mark.parametrize("insertion", [LinearSchedule(), PolynomialSchedule(2.0)], ids=str)
@pytest.mark.parametrize("masks", [LinearSchedule(1e-2), PolynomialSchedule(0.7)], ids=str)
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_tokens_are_absent_masked_and_clean_as_often_as_they_should(
    insertion: NoiseSchedule, masks: NoiseSchedule, t: float
) -> None:
    process = InsertionProcess(MASK, masks, insertion=insertion)
    tokens, maskable, real = rows()
    drawn = process.thin(
        tokens, torch.full((ROWS,), t), maskable, gaps_of(maskable, real), real, random=RowRandom.from_seed(0, ROWS)
    )
    number = int(maskable.sum())
    absent, masked = int(drawn.missing.sum()), int(drawn.masked.sum())
    gone, hidden = float(insertion.mask_probability(torch.tensor(t))), share_of_masks(process, t)
    if insertion == LinearSchedule() and masks == LinearSchedule(1e-2):
        assert (gone, hidden) == pytest.approx((t, -t * math.log(t)), rel=1e-4)
    for found, share in ((absent, gone), (masked, hidden)):
        assert abs(found - number * share) <= 5 * math.sqrt(number * share * (1 - share)) + 1e-3 * number * share


def test_what_is_missing_is_said_where_it_is_missing() -> None:
    tokens, maskable, real = rows()
    gaps = gaps_of(maskable, real)
    drawn = InsertionProcess(MASK).thin(
        tokens, torch.full((ROWS,), 0.6), maskable, gaps, real, random=RowRandom.from_seed(1, ROWS)
    )
    for row in range(0, ROWS, 40):
        text = tokens[row][real[row]].tolist()
        kept = drawn.x_0[row][drawn.real[row]].tolist()
        assert torch.equal(drawn.tokens[row], torch.where(drawn.masked[row], MASK, drawn.x_0[row]))
        ends = [*(text.index(token) for token in kept[1:]), len(text)]
        missing = [end - text.index(token) - 1 for token, end in zip(kept, ends, strict=True)]
        assert drawn.missing[row][drawn.real[row]].tolist() == missing
        given = tokens[row][real[row] & ~maskable[row]].tolist()
        assert [token for token in kept if token in given] == given
        assert not drawn.masked[row][torch.isin(drawn.x_0[row], torch.tensor(given))].any()
        inside = [token for token, place in zip(text, gaps[row][real[row]].tolist(), strict=True) if place]
        assert drawn.gaps[row][drawn.real[row]].tolist() == [token in inside for token in kept]
    assert not gaps[1, 0]  # between two given tokens nothing was ever missing
    assert gaps[1, 1]
    assert not gaps[0, 0]  # padding
    assert drawn.missing[~drawn.real].eq(0).all()


def test_a_row_does_not_know_its_neighbours() -> None:
    tokens, maskable, real = (part[:8] for part in rows())
    gaps = gaps_of(maskable, real)
    process, t = InsertionProcess(MASK), torch.linspace(0.3, 0.9, 8)
    together = process.thin(tokens, t, maskable, gaps, real, random=RowRandom.from_seed(5, 8))
    for row in range(8):
        one = [part[row : row + 1] for part in (tokens, t, maskable, gaps, real)]
        alone = process.thin(*one, random=RowRandom.from_seed(5 + row, 1))
        for mine, ours in zip(alone, together, strict=True):
            assert torch.equal(mine[0], ours[row, : mine.shape[1]])
        assert not together.real[row, alone.real.shape[1] :].any()


def test_rows_that_keep_their_length_are_refused() -> None:
    with pytest.raises(ValueError, match="use InsertionNELBO as objective, or MaskingProcess"):
        InsertionProcess(MASK).corrupt(torch.zeros(1, 2).long(), torch.ones(1), random=RowRandom.from_seed(0, 1))
