"""Parts and samplers that a user writes go with everything that asks for one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from llada.process import MaskingProcess
from llada.samplers import (
    Amount,
    Blocks,
    Credit,
    EditingSampler,
    LeftToRight,
    Measure,
    NextToken,
    Order,
    PerStep,
    Quota,
    Sampler,
    SpeculativeSampler,
    State,
    Step,
    Threshold,
    UnmaskingSampler,
    canvas,
)
from llada.text import stream_text
from tests.helpers import ALL_SAMPLERS

MASK = 4
PROCESS = MaskingProcess(MASK)
DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


def always_two(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return torch.eye(5)[torch.full_like(tokens, 2)]


def edges_first() -> Order:
    """The class of the documentation, as it is written there."""
    source = re.search(r"@dataclass\(frozen=True\)\nclass EdgesFirst.*?\n\n\n", DOCS.read_text(), re.DOTALL)
    assert source is not None
    names: dict[str, Any] = {"dataclass": dataclass, "Order": Order, "State": State, "Tensor": Tensor}
    exec(source[0], names)
    order = names["EdgesFirst"](length=4)
    assert isinstance(order, Order)
    return order


def test_the_order_of_the_documentation_does_not_see_the_padding() -> None:
    tokens, mask, given = canvas([[], [1, 2, 3]], 4, mask_token_id=MASK, pad_token_id=0)
    sampler = UnmaskingSampler(Quota(2), edges_first())
    alone = next(iter(sampler.iterate(always_two, tokens[:1, 3:], PROCESS)))
    together = next(iter(sampler.iterate(always_two, tokens, PROCESS, given=given, attention_mask=mask)))
    assert alone.changed.tolist() == [[True, False, False, True]]
    assert together.changed[0, 3:].tolist() == alone.changed[0].tolist()


class Flat(Order):
    @override
    def __call__(self, state: State) -> Tensor:
        return torch.full_like(state.positions, 0.5, dtype=torch.float64)


class Sure(Flat):
    measure = Measure.PROBABILITY


@dataclass(frozen=True)
class TwoAtOnce(Amount):
    """All that an amount needs."""

    @override
    def __call__(self, state: State) -> Tensor:
        return state.valid & (state.valid.cumsum(1) <= 2)


def test_an_order_says_what_its_scores_are() -> None:
    with pytest.raises(ValueError, match=r"Flat scores aren't; .*measure = Measure\.PROBABILITY"):
        UnmaskingSampler(Threshold(0.4), Flat())
    tokens = torch.full((1, 4), MASK)
    assert UnmaskingSampler(Threshold(0.4), Sure())(always_two, tokens, PROCESS).calls.tolist() == [1]
    assert UnmaskingSampler(Threshold(0.6), Sure())(always_two, tokens, PROCESS).calls.tolist() == [4]


@pytest.mark.parametrize("order", [LeftToRight(), Sure()], ids=["blind", "of the model's answers"])
def test_an_amount_is_one_function(order: Order) -> None:
    tokens = torch.full((2, 5), MASK)
    tokens[1, 1:4] = 0
    sample = UnmaskingSampler(TwoAtOnce(), order, window=Blocks(5))(always_two, tokens, PROCESS)
    assert (sample.tokens == torch.where(tokens == MASK, 2, tokens)).all()
    assert sample.calls.tolist() == [3, 1]


class OneByOne(Sampler):
    """A loop of one's own."""

    is_final = True

    @override
    def iterate(
        self,
        model: Any,
        tokens: Tensor,
        process: Any,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        still_open = tokens == process.mask_token_id if given is None else ~given
        for column in still_open.any(0).nonzero()[:, 0].tolist():
            changed = torch.zeros_like(still_open)
            changed[:, column] = still_open[:, column]
            tokens = torch.where(changed, 2, tokens)
            left = still_open & (torch.arange(tokens.shape[1]) > column)
            calls = still_open[:, : column + 1].sum(1)
            yield Step(tokens, changed, torch.full(tokens.shape, torch.nan), calls, left)


def test_a_sampler_of_ones_own_is_streamed() -> None:
    tokens = torch.full((1, 3), MASK)
    assert OneByOne().is_final
    steps = OneByOne().iterate(always_two, tokens, PROCESS)
    assert list(stream_text(steps, tokens != MASK, lambda ids: "x" * len(ids))) == ["x", "x", "x"]
    assert OneByOne()(always_two, tokens, PROCESS).generated.tolist() == [3]
    with pytest.raises(ValueError, match=r"OneByOne takes no constraints.*low_confidence"):
        OneByOne().with_adjustments(Credit())


def test_samplers_say_whether_tokens_stay_and_take_adjustments() -> None:
    for name, sampler in ALL_SAMPLERS.items():
        revoking = ("editing", "remasking", "planning", "backtracking", "verifying")
        assert sampler.is_final == (not any(word in name for word in revoking)), name
        assert not sampler.left_to_right
    assert NextToken().left_to_right
    assert NextToken().is_final
    more = UnmaskingSampler(PerStep(1), adjustments=(Credit(0.5),)).with_adjustments(Credit(0.25))
    assert more.adjustments == (Credit(0.5), Credit(0.25))
    assert EditingSampler().with_adjustments(Credit()).adjustments == (Credit(),)
    with pytest.raises(ValueError, match="Credit remembers every step"):
        SpeculativeSampler().with_adjustments(Credit())
