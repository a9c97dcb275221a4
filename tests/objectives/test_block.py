"""Block diffusion's bound: against enumeration, between its two limits, and against a pass per block."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.block_causal import token_blocks
from llada.noise import StratifiedTimes, UniformTimes
from llada.objectives import NELBO, Blockwise, ComplementaryBlocks, PerScored, UnitWeight
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.rows import block_numbers
from tests.objectives.test_oracle import LANGUAGE, MASK, ROWS, exact_bound, table_model

SIZES = pytest.mark.parametrize("block_length", [1, 2, 3, 4])


def in_blocks(model: Any, block_length: int) -> Any:
    """A model of whole rows as one of blocks: later blocks are hidden from it, earlier ones are clean."""

    def blocks(tokens: Tensor, clean: Tensor) -> Tensor:
        parts = []
        for start in range(0, tokens.shape[1], block_length):
            row = torch.full_like(tokens, MASK)
            row[:, :start] = clean[:, :start]
            row[:, start : start + block_length] = tokens[:, start : start + block_length]
            parts.append(model(row)[:, start : start + block_length])
        return torch.cat(parts, dim=1)

    return blocks


def enumerated(model: Any, row: Tensor, block_length: int) -> float:
    """The sum of the exact bounds of the blocks, each by enumeration of all its masks."""
    total = 0.0
    for start in range(0, len(row), block_length):
        stop = min(start + block_length, len(row))

        def of_block(part: Tensor, start: int = start, stop: int = stop) -> Tensor:
            whole = torch.full((1, len(row)), MASK)
            whole[0, :start] = row[:start]
            whole[0, start:stop] = part[0]
            return model(whole)[:, start:stop]

        total += exact_bound(of_block, row[start:stop])
    return total


@SIZES
@pytest.mark.parametrize("times", [StratifiedTimes(), UniformTimes()], ids=repr)
def test_it_agrees_with_enumeration_for_any_model(block_length: int, times: Any) -> None:
    model, row = table_model(), torch.tensor([0, 2, 1, 1])
    objective = NELBO(Blockwise(times, block_length))
    nelbo = objective(
        in_blocks(model, block_length), MaskingProcess(MASK), row.expand(ROWS, -1), random=RowRandom.from_seed(2, ROWS)
    ).nelbo
    # Five standard errors: a false alarm once in two million. Blocks of one token leave nothing to chance.
    allowed = 5 * float(nelbo.std()) / math.sqrt(ROWS) + 1e-6
    assert abs(float(nelbo.mean()) - enumerated(model, row, block_length)) < allowed
    assert allowed < 0.03 * enumerated(model, row, block_length)


def test_complementary_masks_cover_every_block_and_agree_with_enumeration() -> None:
    seen: list[Tensor] = []
    model, row = table_model(), torch.tensor([0, 2, 1, 1])

    def watched(tokens: Tensor, clean: Tensor) -> Tensor:
        seen.append(tokens)
        return in_blocks(model, 3)(tokens, clean)

    output = NELBO(ComplementaryBlocks(block_length=3))(
        watched, MaskingProcess(MASK), row.expand(ROWS, -1), random=RowRandom.from_seed(2, ROWS)
    )
    first, second = (seen[0] == MASK).chunk(2)
    assert (first | second).all()
    assert (first & second)[:, :3].sum(1).tolist() == [1] * ROWS
    assert (first & second)[:, 3:].sum(1).tolist() == [1] * ROWS
    allowed = 5 * float(output.nelbo.std()) / math.sqrt(ROWS)  # a false alarm once in two million
    assert abs(float(output.nelbo.mean()) - enumerated(model, row, 3)) < allowed
    assert allowed < 0.03 * enumerated(model, row, 3)


@SIZES
def test_the_optimal_bound_is_the_entropy_for_every_block_length(block_length: int) -> None:
    x_0 = LANGUAGE.sample(10_000, torch.Generator().manual_seed(0))
    model, random = in_blocks(LANGUAGE.oracle, block_length), RowRandom.from_seed(2, len(x_0))
    nelbo = NELBO(Blockwise(block_length=block_length))(model, MaskingProcess(MASK), x_0, random=random).nelbo
    assert abs(float(nelbo.mean()) - LANGUAGE.entropy()) < 5 * float(nelbo.std()) / math.sqrt(len(x_0))


@pytest.mark.parametrize("convolution", [0, 3])
def test_the_loss_and_its_gradient_are_those_of_a_pass_per_block(convolution: int) -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(
        9, width=16, num_layers=2, num_heads=2, block_length=4, convolution=convolution
    ).double()
    x_0 = torch.randint(8, (3, 10))
    seen: list[Tensor] = []
    hidden = backbone.hidden

    def watched(tokens: Tensor, **arguments: Any) -> Tensor:
        seen.append(tokens)
        return hidden(tokens, **arguments)

    backbone.hidden = watched
    objective = NELBO(Blockwise())
    output = objective(backbone, MaskingProcess(8), x_0, random=RowRandom.from_seed(5, 3))
    (noisy,), masked = seen, seen[0] == 8
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        logits = backbone(torch.cat([x_0[:, :start], noisy[:, start:stop]], dim=1))[:, start:]
        nll = -logits.log_softmax(-1).gather(2, x_0[:, start:stop, None])[..., 0]
        hit = masked[:, start:stop]
        total = total + ((nll * hit).sum(1) * (stop - start) / hit.sum(1)).sum()
    torch.testing.assert_close(output.loss, total / 30)
    assert float(output.nelbo.sum()) == pytest.approx(float(total.detach()))
    parameters = list(backbone.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(total / 30, parameters), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_every_block_has_its_own_count_and_strata_cover_all_of_them() -> None:
    x_0, maskable = torch.zeros(16, 12, dtype=torch.long), torch.ones(16, 12, dtype=torch.bool)
    seen = []

    def model(tokens: Tensor, clean: Tensor) -> Tensor:
        seen.append(tokens)
        return torch.zeros(*tokens.shape, MASK + 1)

    output = NELBO(Blockwise(block_length=4))(
        model, MaskingProcess(MASK), {"tokens": x_0, "maskable": maskable}, random=RowRandom.from_seed(0, 16)
    )
    counts = (seen[0] == MASK).view(16, 3, 4).sum(2)
    assert counts.flatten().bincount().tolist() == [0, 12, 12, 12, 12]
    assert len(set(map(tuple, counts.tolist()))) > 4  # no fixed pattern along the row
    torch.testing.assert_close(output.nelbo, torch.full((16,), 12 * math.log(MASK + 1), dtype=torch.float64))
    assert torch.equal(output.t, counts.sum(1).double() / 12.0)


def test_prompts_stay_and_short_blocks_count_their_own_tokens() -> None:
    x_0, maskable = torch.zeros(40, 7, dtype=torch.long), torch.ones(40, 7, dtype=torch.bool)
    maskable[:, :3] = False  # one token left in the first block of four, three in the second
    seen = []

    def model(tokens: Tensor, clean: Tensor) -> Tensor:
        seen.append(tokens)
        return torch.zeros(*tokens.shape, MASK + 1)

    output = NELBO(Blockwise(block_length=4))(
        model, MaskingProcess(MASK), {"tokens": x_0, "maskable": maskable}, random=RowRandom.from_seed(0, 40)
    )
    masked = seen[0] == MASK
    assert not masked[:, :3].any()
    assert masked[:, 3].all()
    assert set(masked[:, 4:].sum(1).tolist()) == {1, 2, 3}
    torch.testing.assert_close(output.nelbo, torch.full((40,), 4 * math.log(MASK + 1), dtype=torch.float64))


def test_the_training_weight_leaves_the_bound_alone() -> None:
    x_0, random = torch.tensor([[0, 2, 1, 1], [1, 1, 0, 2]]), RowRandom.from_seed(4, 2)
    outputs = [
        NELBO(Blockwise(block_length=2), **options)(
            in_blocks(table_model(), 2), MaskingProcess(MASK), x_0, random=random
        )
        for options in ({}, {"weight": UnitWeight(), "normaliser": PerScored()})
    ]
    assert torch.equal(outputs[0].nelbo, outputs[1].nelbo)
    assert float(outputs[1].numerator) == pytest.approx(float(outputs[1].scored_nll.sum()))


def test_blocks_are_those_of_the_backbone() -> None:
    tokens, positions = torch.zeros(3, 11, dtype=torch.long), torch.arange(11)
    real = torch.ones(3, 11, dtype=torch.bool)
    real[0, :2] = real[1, 8:] = False
    ours = block_numbers(tokens, 4, attention_mask=real)
    theirs = token_blocks(4, tokens, real, None)
    assert torch.equal(ours[real], theirs.expand(3, -1)[real])
    assert torch.equal(block_numbers(tokens, 4)[0], positions // 4)
    segments = torch.tensor([[0] * 5 + [1] * 6, [0] * 11, [3] * 1 + [1] * 10])
    wanted = [[0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]]
    assert block_numbers(tokens, 4, segment_ids=segments).tolist() == wanted


def test_packed_segments_are_scored_as_rows_of_their_own() -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(9, width=16, num_layers=1, num_heads=2, block_length=1).double()
    x_0, process = torch.randint(8, (2, 9)), MaskingProcess(8)
    segments = (torch.arange(9) >= 4).long().expand(2, -1)
    random = RowRandom.from_seed(0, 2)
    packed = NELBO(Blockwise())(backbone, process, {"tokens": x_0, "segment_ids": segments}, random=random).nelbo
    apart = [NELBO(Blockwise())(backbone, process, part, random=random).nelbo for part in (x_0[:, :4], x_0[:, 4:])]
    torch.testing.assert_close(packed, apart[0] + apart[1])  # blocks of one token: no chance in it


def test_gradcheck() -> None:
    x_0 = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
    weights = torch.randn(4 * 4, 4, dtype=torch.float64, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        model = lambda tokens: w[(tokens + 4 * torch.arange(tokens.shape[1]))].cumsum(1)  # noqa: E731
        return NELBO(Blockwise(block_length=2))(
            in_blocks(model, 2), MaskingProcess(MASK), x_0, random=RowRandom.from_seed(6, 2)
        ).loss

    assert torch.autograd.gradcheck(loss, (weights,))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="block_length must be 1 or more; got 0"):
        Blockwise(block_length=0)
    with pytest.raises(ValueError, match="different noise levels"):
        NELBO(Blockwise(block_length=2))(
            len, MaskingProcess(3, time_conditioned=True), torch.zeros(1, 4).long(), random=RowRandom.from_seed(0, 1)
        )
