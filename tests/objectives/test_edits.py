"""The loss of edits, by hand and on a model that is never wrong."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.noise import GeometricSchedule
from llada.objectives import NELBO, EditRounds, IndependentMasks, PerScored
from llada.process import MaskingProcess, UniformProcess
from llada.process.levenshtein import EditTokens, edit_labels, edited
from llada.random import RowRandom
from tests.doubles import GivenTimes

MASK, DELETE, INSERT = 15, 14, 13
PROCESS, NAMES = MaskingProcess(MASK), EditTokens(MASK, DELETE, INSERT)
TOKENS = torch.tensor(
    [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [3, 3, 4, 4, 3, 3, 4, 4, 3, 3, 0], [0, 9, 8, 7, 6, 5, 1, 2, 3, 4, 5]]
)
BATCH = {
    "tokens": TOKENS,
    "maskable": torch.tensor([[0, 0, *[1] * 9], [0, *[1] * 9, 0], [0, 0, 0, 0, *[1] * 7]]).bool(),
}
BATCH["attention_mask"] = torch.tensor([[1] * 11, [1] * 10 + [0], [0] + [1] * 10]).bool()


def objective(**options: Any) -> EditRounds:
    times = GivenTimes(torch.tensor([0.9, 0.5, 0.7]))
    first = NELBO(IndependentMasks(times))
    return replace(EditRounds(DELETE, INSERT, block_length=4, first=first, times=times), **options)


def by_hand(model: Any, rounds: int, random: RowRandom, seen: list[Tensor]) -> Tensor:
    """The sum of the edits' cross-entropies, block by block and row by row."""
    draft = PROCESS.corrupt(
        TOKENS, torch.tensor([0.9, 0.5, 0.7]).double(), BATCH["maskable"], random=random.fold_in(2)
    ).tokens
    total = torch.zeros(())
    for number in range(rounds):
        said = model(draft, attention_mask=BATCH["attention_mask"])
        said[..., MASK] = -torch.inf
        said = said.argmax(-1)
        if number == 0:
            said = torch.where(draft == MASK, said, draft)
        before, draft, labels = draft, draft.clone(), TOKENS.clone()
        for row in range(3):
            places = BATCH["maskable"][row].nonzero()[:, 0]
            for at in places.split(4):
                real = torch.ones(1, len(at)).bool()
                draft[row, at] = edited(before[row, at][None], said[row, at][None], real, NAMES)[0][0]
                labels[row, at] = edit_labels(draft[row, at][None], TOKENS[row, at][None], real, NAMES)[0]
        seen.append(labels)
        logits = model(draft, attention_mask=BATCH["attention_mask"])
        if PROCESS.suppressed is not None:
            logits[..., PROCESS.suppressed] = -torch.inf
        nll = -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        total = total + nll[BATCH["maskable"]].sum()
    return total


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_loss_is_that_by_hand(rounds: int) -> None:
    torch.manual_seed(1)
    model = BidirectionalTransformer(16, width=16, num_layers=1, num_heads=2)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    random, seen = RowRandom.from_seed(5, 3), []
    rule = objective(rounds=rounds, weight=0.5)
    output = rule(model, PROCESS, BATCH, random=random)
    first = rule.first(model, PROCESS, BATCH, random=random.fold_in(0))
    edits = by_hand(model, rounds, random, seen)
    torch.testing.assert_close(output.numerator, first.numerator + 0.5 * edits, rtol=1e-4, atol=1e-5, check_dtype=False)
    assert output.denominator == first.denominator
    assert torch.equal(output.nelbo, first.nelbo)
    assert rule.bound_gap(PROCESS) == rule.first.bound_gap(PROCESS)
    assert any(bool((labels == name).any()) for labels in seen for name in (DELETE, INSERT))
    output.loss.backward()
    assert model.embedding.weight.grad is not None


def test_a_model_that_is_never_wrong_has_nothing_to_learn() -> None:
    def knowing(tokens: Tensor, attention_mask: Tensor) -> Tensor:
        return 60.0 * torch.nn.functional.one_hot(TOKENS, 16).double()

    output = objective(rounds=2)(knowing, PROCESS, BATCH, random=RowRandom.from_seed(0, 3))
    assert output.loss < 1e-9


def test_what_cannot_be_edited_is_refused() -> None:
    for options, message in (
        ({"rounds": 0}, "must be 1 or more"),
        ({"weight": -1.0}, "weight 0 or more; got 1, 4 and -1.0"),
        ({"insert_token_id": DELETE}, "must differ; got 14 for both"),
        ({"first": NELBO(normaliser=PerScored())}, "PerScored divides the rest"),
    ):
        with pytest.raises(ValueError, match=message):
            objective(**options)
    random, model = RowRandom.from_seed(0, 3), BidirectionalTransformer(16, width=8, num_layers=1, num_heads=1)
    broken = BATCH["maskable"].clone()
    broken[0, 5] = False
    for batch in (BATCH | {"maskable": broken}, BATCH | {"segment_ids": torch.zeros_like(TOKENS)}):
        with pytest.raises(ValueError, match="must be in one piece, and it not packed"):
            objective()(model, PROCESS, batch, random=random)
    timed = MaskingProcess(MASK, GeometricSchedule(), time_conditioned=True)
    for process in (UniformProcess(16), timed):
        with pytest.raises(ValueError, match="use MaskingProcess without time_conditioned"):
            objective()(model, process, BATCH, random=random)
