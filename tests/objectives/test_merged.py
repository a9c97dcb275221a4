"""Masks that stand for several tokens or for none.

The statistical test allows five standard errors, a false alarm about once in 2,000,000; the seed is fixed.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.objectives import Draw, MergedMasks, UnitWeight, dreamon
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from tests.doubles import GivenTimes

MASK, EXPAND, DELETE, PAD = 63, 62, 61, 0
PROCESS = MaskingProcess(MASK)
ROWS, LENGTH = 400, 12


def rows() -> dict[str, Tensor]:
    """Rows whose tokens are all different; a prompt, the gap, what follows, and padding at either end."""
    tokens = torch.arange(1, LENGTH + 1).repeat(ROWS, 1)
    real, maskable = torch.ones_like(tokens).bool(), torch.zeros_like(tokens).bool()
    real[::3, 0], real[::4, -1] = False, False
    maskable[:, 3:9] = True
    maskable[7] = False
    return {"tokens": tokens.masked_fill(~real, PAD), "attention_mask": real, "maskable": maskable}


def draw(design: MergedMasks, t: float = 0.6, seed: int = 0) -> Draw:
    design = replace(design, times=GivenTimes(torch.full((ROWS,), t)))
    return design(as_denoiser(lambda tokens: tokens), PROCESS, rows(), random=RowRandom.from_seed(seed, ROWS))


@pytest.mark.parametrize("merge_prob", [0.0, 0.5, 1.0])
def test_what_merges_away_is_found_behind_an_expanding_mask(merge_prob: float) -> None:
    batch, drawn = rows(), draw(MergedMasks(EXPAND, DELETE, merge_prob, max_delete=4))
    real = drawn.inputs["attention_mask"]
    merged = 0
    for row in range(ROWS):
        kept = real[row].nonzero()[:, 0]
        labels, tokens = drawn.x_0[row, kept].tolist(), drawn.tokens[row, kept].tolist()
        text = batch["tokens"][row][batch["attention_mask"][row]].tolist()
        surplus, place, before = [], 0, -1
        for label, token, scored in zip(labels, tokens, drawn.scored[row, kept].tolist(), strict=True):
            assert (token == MASK) == scored
            if label == DELETE:
                surplus.append(place)
                continue
            if label != EXPAND:  # all between the last mask and this token has merged into that mask
                assert text.index(label) >= place
                merged += text.index(label) - place
                if text.index(label) > place:
                    assert before == EXPAND
                place = text.index(label) + 1
            else:
                place += 1
            before = label
            assert scored or token == label
        assert place == len(text) or before == EXPAND
        assert len(surplus) <= 3
        assert all(at >= text.index(9) + 1 or labels.count(EXPAND) for at in surplus)
    assert (merged > 0) == (merge_prob > 0.0)
    assert not drawn.scored[7].any()
    assert int(drawn.maskable.sum()) <= ROWS * 9


def test_masks_merge_as_often_as_they_should() -> None:
    """All masked: 6 masks in a row and 5 pairs of neighbours, which merge by independent coins."""
    for static, chance in ((1.0, 0.3), (0.0, 0.0)):
        drawn = draw(MergedMasks(EXPAND, DELETE, 0.3, static, max_delete=0), t=1.0)
        gone, number = rows()["attention_mask"].sum() - drawn.inputs["attention_mask"].sum(), 5 * (ROWS - 1)
        assert abs(float(gone) - number * chance) <= 5 * math.sqrt(number * chance * (1 - chance))
    drawn = draw(MergedMasks(EXPAND, DELETE, 1.0, 0.0, max_delete=0), t=0.5)
    share = torch.tensor([[0.0]])
    pairs = expected = 0.0
    for row in range(ROWS):  # the labels of a draw without merges, whose masks are the same
        plain = draw_plain(row)
        share = plain.sum() / 6
        beside = float((plain[:-1] & plain[1:]).sum())
        pairs, expected = pairs + beside, expected + beside * float(1 - share)
    gone = float(rows()["attention_mask"].sum() - drawn.inputs["attention_mask"].sum())
    assert abs(gone - expected) <= 5 * math.sqrt(pairs / 4)
    assert expected > 100


def draw_plain(row: int) -> Tensor:
    if not PLAIN:
        drawn = draw(MergedMasks(EXPAND, DELETE, 0.0, 0.0, max_delete=0), t=0.5)
        PLAIN.append(drawn.scored)
    return PLAIN[0][row]


PLAIN: list[Tensor] = []


def test_a_row_does_not_know_its_neighbours() -> None:
    design, batch = MergedMasks(EXPAND, DELETE, max_delete=3), rows()
    together = draw(design)
    for row in (0, 1, 4, 7):
        one = {name: column[row : row + 1] for name, column in batch.items()}
        single = replace(design, times=GivenTimes(torch.full((1,), 0.6)))
        alone = single(as_denoiser(lambda tokens: tokens), PROCESS, one, random=RowRandom.from_seed(row, 1))
        width = alone.tokens.shape[1]
        assert torch.equal(alone.tokens[0], together.tokens[row, :width])
        assert torch.equal(alone.x_0[0], together.x_0[row, :width])
        assert not together.inputs["attention_mask"][row, width:].any()


def test_the_loss_is_the_weighted_cross_entropy_of_the_labels() -> None:
    torch.manual_seed(0)
    model = BidirectionalTransformer(64, width=16, num_layers=1, num_heads=2)
    batch = {name: column[:8] for name, column in rows().items()}
    objective = dreamon(EXPAND, DELETE, 4)
    objective = replace(objective, design=replace(objective.design, times=GivenTimes(torch.linspace(0.2, 0.9, 8))))
    random = RowRandom.from_seed(3, 8)
    output = objective(model, PROCESS, batch, random=random)
    drawn = objective.design(as_denoiser(model), PROCESS, batch, random=random)
    logits = model(drawn.tokens, **drawn.inputs)
    logits[..., MASK] = -torch.inf if PROCESS.suppressed is not None else logits[..., MASK]
    nll = -logits.log_softmax(-1).gather(-1, drawn.x_0[..., None]).squeeze(-1)
    wanted = ((1 - drawn.t) * nll)[drawn.scored].sum() / drawn.scored.sum()
    assert torch.isclose(output.loss.double(), wanted.double(), rtol=1e-5)
    output.loss.backward()
    assert model.embedding.weight.grad is not None
    assert "aren't tokens of the text" in str(objective.bound_gap(PROCESS))
    assert not torch.isclose(replace(objective, weight=UnitWeight())(model, PROCESS, batch, random=random).loss, wanted)


def test_what_cannot_be_merged_is_refused() -> None:
    for arguments, message in (
        ({"merge_prob": 1.5}, r"merge_prob and static must be in \[0, 1\]; got 1.5"),
        ({"max_delete": -1}, "max_delete must be 0 or more"),
        ({"delete_token_id": EXPAND}, "must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            MergedMasks(**({"expand_token_id": EXPAND, "delete_token_id": DELETE} | arguments))
    design, random = MergedMasks(EXPAND, DELETE), RowRandom.from_seed(0, ROWS)
    with pytest.raises(ValueError, match="UniformProcess has other noise"):
        design(as_denoiser(lambda tokens: tokens), UniformProcess(64), rows(), random=random)
    packed = rows() | {"segment_ids": torch.zeros(ROWS, LENGTH).long()}
    with pytest.raises(ValueError, match="packed rows"):
        design(as_denoiser(lambda tokens: tokens), PROCESS, packed, random=random)
