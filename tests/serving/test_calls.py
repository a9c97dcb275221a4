"""Calls that share a batch get what each would have got alone, and only those share one that can."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.denoiser import CallableDenoiser, as_denoiser
from llada.rows import positions
from llada.serving.calls import Call, answers, batches, steady

VOCABULARY = 11


def table(tokens: Tensor, attention_mask: Tensor | None = None, time: Tensor | None = None) -> Tensor:
    """Logits (B, L, V) that tell the row's tokens, the position, the number of real tokens and the time."""
    if bool((tokens == 9).any()):
        raise ValueError("9 can't be read")
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
    told = torch.zeros(*tokens.shape, VOCABULARY)
    told[..., 0], told[..., 1] = tokens, positions(tokens, attention_mask)
    told[..., 2], told[..., 3] = (tokens * real).sum(1, keepdim=True), real.sum(1, keepdim=True)
    told[..., 4] = 0.0 if time is None else time[:, None]
    return told


def call(rows: int, length: int, where: str = "chosen", **kwargs: Any) -> Call:
    generator = torch.Generator().manual_seed(100 * rows + length)
    tokens = torch.randint(8, (rows, length), generator=generator)
    kinds = {
        "all": None,
        "mask": torch.rand(rows, length, generator=generator) < 0.5,
        "chosen": torch.randint(length, (rows, 3), generator=generator),  # in any order, some twice
    }
    return Call(tokens, kinds[where], kwargs)


def half_padded(rows: int, length: int) -> Tensor:
    return torch.arange(length).expand(rows, length) >= torch.arange(rows)[:, None]


MIXED = [
    call(1, 9), call(2, 8, "mask"), call(1, 5, "all"), call(3, 9, attention_mask=half_padded(3, 9)),
    call(1, 7, "all", time=torch.tensor([0.5])), call(2, 9, "mask", time=torch.tensor([0.25, 1.0])),
    call(1, 30), call(1, 8, attention_mask=half_padded(1, 8).long()),
]  # fmt: skip


def test_answers_are_those_of_each_call_alone() -> None:
    denoiser = CallableDenoiser(table)
    for asked, found in zip(MIXED, answers(MIXED, denoiser), strict=True):
        assert isinstance(found, Tensor)
        assert torch.equal(found, denoiser.logits(asked.tokens, asked.where, **asked.model_kwargs))


@torch.no_grad()
def test_a_network_tells_rows_of_one_length_the_same_to_the_last_bit_whoever_else_asks() -> None:
    """Also where one position of one row is wanted, for which a matrix product takes another routine than for many."""
    torch.manual_seed(0)
    denoiser = steady(as_denoiser(BidirectionalTransformer(1 << 12, 256, 1, 2)))  # a head that is worth reordering
    calls = []
    for row in range(6):
        where = torch.zeros(1, 9, dtype=torch.bool)
        where[0, torch.randperm(9)[: 1 + row % 3]] = True
        calls.append(Call(torch.randint(1 << 12, (1, 9)), where, {}))
    shared = [answers(calls[:number], denoiser) for number in range(1, 7)]
    for number, found in enumerate(shared, start=1):
        for each, same in zip(found, shared[-1], strict=False):
            assert isinstance(each, Tensor)
            assert torch.equal(each, same), number  # type: ignore[arg-type]


def test_calls_share_a_batch_where_their_arguments_and_lengths_are_alike() -> None:
    assert sorted(map(sorted, batches(MIXED))) == [[0, 1, 2, 3, 7], [4, 5], [6]]


def test_a_model_that_knows_no_padding_shares_calls_of_one_length() -> None:
    asked = [call(1, 9), call(2, 8), call(1, 9, "mask"), call(1, 7, attention_mask=half_padded(1, 7))]
    seen: list[tuple[int, ...]] = []

    def plain(tokens: Tensor) -> Tensor:
        seen.append(tuple(tokens.shape))
        return table(tokens)

    for each, found in zip(asked, answers(asked, CallableDenoiser(plain)), strict=True):
        assert isinstance(found, Tensor)
        assert torch.equal(found, CallableDenoiser(table).logits(each.tokens, each.where))
    assert seen[:3] == [(2, 9), (2, 8), (1, 7)]


@pytest.mark.parametrize("others", [{"shadow": torch.zeros(1, 3).long()}, {"depth": 2}], ids=["per_place", "number"])
def test_a_call_with_other_arguments_stays_alone(others: dict[str, Any]) -> None:
    asked = [call(1, 9), call(1, 9, **others), call(1, 9, **others), call(1, 9)]
    assert sorted(map(sorted, batches(asked))) == [[0, 3], [1], [2]]


def test_a_call_that_fails_fails_alone() -> None:
    bad = Call(torch.full((1, 9), 9), None, {})
    first, error, second = answers([MIXED[0], bad, MIXED[1]], CallableDenoiser(table))
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert isinstance(error, ValueError)
