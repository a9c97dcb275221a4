"""``hidden(select=...)`` gives the rows of ``hidden()``, in any order, more than once, and with their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer, Body, DiffusionTransformer

VOCAB, ROWS, LENGTH = 20, 3, 9
SELECT = torch.tensor([26, 0, 14, 14, 5])
REAL = torch.arange(LENGTH) >= torch.tensor([[0], [3], [0]])
SEGMENTS = (torch.arange(LENGTH) >= torch.tensor([[4], [9], [2]])).long()
LEVELS = torch.linspace(0.1, 3.0, ROWS, dtype=torch.float64)
MODELS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "shift": {"shift": True},
    "causal_convolution": {"causal": True, "convolution": 3},
    "blocks": {"block_length": 4},
    "dit": {},
    "dit_blocks": {"block_length": 4},
}
INPUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"attention_mask": REAL},
    "packed": {"segment_ids": SEGMENTS},
    "cached": {"region": slice(0, LENGTH)},
    "cached_padded": {"region": slice(0, LENGTH), "attention_mask": REAL},
    "clean": {"clean": True, "attention_mask": REAL},
    "sigma": {"sigma": LEVELS, "attention_mask": REAL},
}


def build(name: str) -> Body:
    torch.manual_seed(0)
    options = {"width": 32, "num_layers": 2, "num_heads": 4, **MODELS[name]}
    if not name.startswith("dit"):
        return BidirectionalTransformer(VOCAB, **options).double().eval()
    model = DiffusionTransformer(VOCAB, cond_width=8, **options)
    for silent in (*(block.modulation for block in model.blocks), model.final_modulation):
        nn.init.normal_(silent.weight)
        nn.init.normal_(silent.bias)
    return model.double().eval()


def arguments(model: Body, given: str) -> dict[str, Any]:
    options = dict(INPUTS[given])
    if "region" in options:
        options["cache"] = model.new_cache(ROWS, LENGTH)
    if "clean" in options:
        options["clean"] = tokens(2)
    return options


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


CASES = [
    (name, given)
    for name in MODELS
    for given in INPUTS
    if (given != "clean" or name == "blocks") and (given != "sigma" or name.startswith("dit"))
]


@pytest.mark.parametrize(("name", "given"), CASES)
def test_selected_states_and_their_gradients(name: str, given: str) -> None:
    model = build(name)
    found = model.hidden(tokens(), select=SELECT, **arguments(model, given))
    whole = model.hidden(tokens(), **arguments(model, given))
    assert found.shape == (len(SELECT), 32)
    assert whole.shape == (ROWS, LENGTH, 32)
    expected = whole.flatten(0, 1)[SELECT]
    torch.testing.assert_close(found, expected)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parameters = list(model.blocks.parameters())
    gradients = [torch.autograd.grad((x * direction).sum(), parameters) for x in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_none_may_be_selected(name: str) -> None:
    assert build(name).hidden(tokens(), select=torch.empty(0, dtype=torch.int64)).shape == (0, 32)
