"""Two copies of a causal backbone: the noisy one is a pass per block, the clean one the next-token model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.noise import StratifiedTimes
from llada.objectives import (
    NELBO,
    Blockwise,
    CleanCopyLoss,
    ComplementaryBlocks,
    ExactCounts,
    NextTokens,
    PerScored,
    UnitWeight,
)
from llada.process import MaskingProcess
from llada.random import RowRandom

MASK, PROCESS = 8, MaskingProcess(8)


def backbone(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    options = {"causal": True, "shift": True, "block_length": 4, **options}
    return BidirectionalTransformer(MASK + 1, 16, 2, 2, **options).double()


def padded(rows: int = 3, length: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[0, :3] = False
    return {"tokens": torch.randint(MASK, (rows, length)), "attention_mask": mask}


@pytest.mark.parametrize("block_length", [1, 3, 16])
def test_the_noisy_copy_is_a_causal_pass_per_block(block_length: int) -> None:
    model, clean = backbone(block_length=block_length), padded(1)["tokens"]
    noisy = clean.masked_fill(torch.rand(1, 10) < 0.6, MASK)
    found = model.head(model.hidden(noisy, clean=clean))
    for start in range(0, 10, block_length):
        stop = min(start + block_length, 10)
        row = torch.cat([clean[:, :start], noisy[:, start:stop]], 1)
        torch.testing.assert_close(found[:, start:stop], model(row)[:, start:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_length", [1, 4, 16])
def test_the_clean_copy_is_the_next_token_model(block_length: int) -> None:
    model, batch = backbone(block_length=block_length), padded()
    noisy = torch.full_like(batch["tokens"], MASK)
    mask = batch["attention_mask"]
    both = model.hidden(noisy, clean=batch["tokens"], attention_mask=mask, both_copies=True)
    alone = model.hidden(batch["tokens"], attention_mask=mask)
    torch.testing.assert_close(both[:, 10:][mask], alone[mask], rtol=0, atol=1e-12)
    noisy_alone = model.hidden(noisy, clean=batch["tokens"], attention_mask=mask)
    torch.testing.assert_close(both[:, :10][mask], noisy_alone[mask], rtol=0, atol=1e-12)
    select = torch.tensor([3, 19, 20, 45])
    chosen = model.hidden(noisy, clean=batch["tokens"], attention_mask=mask, both_copies=True, select=select)
    torch.testing.assert_close(chosen, both.flatten(0, 1)[select], rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", [Blockwise(), ComplementaryBlocks()], ids=repr)
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_the_sum_of_both(design: Blockwise, packed: bool) -> None:
    model, batch, random = backbone(), padded(), RowRandom.from_seed(5, 3)
    if packed:
        batch = {"tokens": batch["tokens"], "segment_ids": torch.tensor([[0] * 3 + [1] * 7] * 3)}
    plain = NELBO(design)(model, PROCESS, batch, random=random)
    output = CleanCopyLoss(design, clean_weight=0.2)(model, PROCESS, batch, random=random)
    exact = NELBO(NextTokens())(model, PROCESS, batch, random=random)
    expected = plain.numerator + 0.2 * exact.nelbo.sum().to(plain.numerator)
    torch.testing.assert_close(output.numerator, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(output.sums["clean_nll"].double(), exact.nelbo.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(output.nelbo, plain.nelbo, rtol=1e-6, atol=0)
    assert torch.equal(output.num_scored, plain.num_scored)
    assert output.denominator == plain.denominator
    parameters = list(model.parameters())
    theirs = torch.autograd.grad(plain.numerator + 0.2 * exact.numerator, parameters)
    for mine, other in zip(torch.autograd.grad(output.numerator, parameters), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


def test_blocks_of_one_token_are_the_autoregressive_loss() -> None:
    batch, random = padded(), RowRandom.from_seed(5, 3)
    for causal in (False, True):
        model = backbone(causal=causal, block_length=1)
        exact = NELBO(NextTokens())(backbone(block_length=None), PROCESS, batch, random=random)
        both = NELBO(Blockwise())(model, PROCESS, {**batch, "maskable": _with_context(batch)}, random=random)
        torch.testing.assert_close(both.nelbo, exact.nelbo, rtol=0, atol=1e-12)


def _with_context(batch: dict[str, Tensor]) -> Tensor:
    mask = batch["attention_mask"].clone()
    mask[0, 3], mask[1:, 0] = False, False
    return mask


def test_what_has_no_clean_copy_or_would_see_itself_is_refused() -> None:
    batch, random = padded(), RowRandom.from_seed(0, 3)
    with pytest.raises(ValueError, match="ExactCounts has no clean copy"):
        CleanCopyLoss(ExactCounts())(backbone(), PROCESS, batch, random=random)
    for options in ({"causal": False}, {"shift": False}):
        with pytest.raises(ValueError, match="sees the tokens that it would be asked about"):
            CleanCopyLoss()(backbone(**options), PROCESS, batch, random=random)
    with pytest.raises(ValueError, match="clean_weight must be 0 or more"):
        CleanCopyLoss(clean_weight=-1.0)


def test_a_band_of_noise_keeps_the_counts_of_every_block_within_it() -> None:
    seen: list[Tensor] = []

    def model(tokens: Tensor, clean: Tensor) -> Tensor:
        seen.append(tokens)
        return torch.zeros(*tokens.shape, MASK + 1)

    for low, high, counts in ((0.3, 0.8, {4, 5, 6, 7, 8}), (0.99, 1.0, {10})):
        band = Blockwise(StratifiedTimes(low, high), block_length=10)
        objective = NELBO(band, UnitWeight(), PerScored())
        output = objective(model, PROCESS, torch.zeros(40, 20, dtype=torch.long), random=RowRandom.from_seed(0, 40))
        assert set((seen[-1] == MASK).view(40, 2, 10).sum(2).flatten().tolist()) == counts
        assert float(output.loss) == pytest.approx(torch.tensor(MASK + 1.0).log().item(), rel=1e-6)
        assert objective.bound_gap(PROCESS) is not None
