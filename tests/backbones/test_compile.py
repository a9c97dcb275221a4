"""What compilers and big machines ask for: one graph without breaks, and parameters that begin on the meta device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.backbones.checkpointing import Selective

REAL = torch.arange(16) < torch.tensor([[16], [9]])
SEGMENTS = torch.arange(16).expand(2, -1) // 5
INPUTS: dict[str, dict[str, Tensor]] = {
    "plain": {},
    "padded": {"attention_mask": REAL},
    "packed": {"segment_ids": SEGMENTS},
    "packed and padded": {"segment_ids": SEGMENTS, "attention_mask": REAL, "select": torch.tensor([1, 20])},
}
MODELS: dict[str, Any] = {
    "transformer": lambda **options: BidirectionalTransformer(20, width=16, num_layers=1, num_heads=2, **options),
    "dit": lambda **options: DiffusionTransformer(20, width=16, num_layers=1, num_heads=2, **options),
}


def tokens() -> Tensor:
    return torch.randint(20, (2, 16), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "layout"), [*(("transformer", layout) for layout in INPUTS), ("dit", "packed and padded")]
)
def test_the_body_is_one_graph(name: str, layout: str) -> None:
    model, arguments = MODELS[name](), INPUTS[layout]
    expected = model.hidden(tokens(), **arguments)
    found = torch.compile(model.hidden, fullgraph=True, backend="eager")(tokens(), **arguments)
    if layout == "padded":  # padding is computed here, and left out there
        found, expected = found[REAL], expected[REAL]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_graph_breaks() -> None:
    explained = torch._dynamo.explain(MODELS["transformer"]().hidden)(tokens(), attention_mask=REAL)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


@pytest.mark.parametrize("options", [{"block_length": 4}, {"causal": True, "shift": True, "convolution": 3}], ids=str)
def test_so_are_its_variants(options: dict[str, Any]) -> None:
    model = MODELS["transformer"](**options)
    compiled = torch.compile(model.hidden, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens()), model.hidden(tokens()), atol=1e-5, rtol=1e-5)


def test_gradients_of_the_compiled_body_that_recomputes() -> None:
    gradients = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        model = MODELS["transformer"](activation_checkpointing=Selective() if compile_it else False)
        hidden = torch.compile(model.hidden, fullgraph=True, backend="aot_eager") if compile_it else model.hidden
        hidden(tokens()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["padded"])
def test_blocks_compile_one_by_one_while_padding_is_left_out(layout: str) -> None:
    """What is found before the first block, such as the places of the real tokens, stays out of the graphs."""
    model = MODELS["transformer"]()
    expected = model.hidden(tokens(), **INPUTS[layout])
    for block in model.blocks:
        block.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(model.hidden(tokens(), **INPUTS[layout]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_may_begin_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name]()
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(4)
    model.reset_parameters()
    torch.manual_seed(4)
    usual = MODELS[name]()
    torch.manual_seed(4)
    usual.reset_parameters()
    assert dict(model.named_buffers()).keys() == dict(usual.named_buffers()).keys()
    for (key, ours), (_, theirs) in zip(model.state_dict().items(), usual.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), key
    assert torch.equal(model(tokens()), usual(tokens()))


def test_a_tied_head_is_still_tied_after_the_meta_device() -> None:
    with torch.device("meta"):
        model = BidirectionalTransformer(20, width=16, num_layers=1, num_heads=2, tie_embeddings=True, head_bias=True)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    model.reset_parameters()
    assert model.head.weight is model.embedding.weight
    assert model(tokens()).isfinite().all()
