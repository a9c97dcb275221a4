"""The arithmetic of docs/scaling.md against models, activations and shards that are really there."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from examples.memory_arithmetic import PLANS, SHAPES, Card, Plan, Shape, communication, memory, seconds, table
from llada.backbones import BidirectionalTransformer
from llada.training.flops import forward_flops

TOKENS = 64
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
SMALL = Shape(width=64, num_layers=3, num_heads=4, num_kv_heads=2, hidden_width=192, vocab_size=50)


def build(shape: Shape, **options: object) -> BidirectionalTransformer:
    sizes = (shape.vocab_size, shape.width, shape.num_layers, shape.num_heads, shape.num_kv_heads)
    return BidirectionalTransformer(*sizes, hidden_width=shape.hidden_width, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [SMALL, *SHAPES.values()])
def test_parameters_are_those_of_the_model(shape: Shape) -> None:
    with torch.device("meta"):
        backbone = build(shape)
    assert shape.parameters == sum(p.numel() for p in backbone.parameters())


def kept_bytes(shape: Shape, **options: object) -> int:
    """What autograd keeps of the body, parameters aside; of memory that several tensors share, once."""
    backbone = build(shape, **options).train()
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone.hidden(torch.zeros(2, TOKENS // 2, dtype=torch.int64))
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_autograd_keeps(checkpointing: bool) -> None:
    """By the difference that one block makes, since what is around the blocks isn't counted."""
    larger = Shape(**{**vars(SMALL), "num_layers": 4})
    options = {"activation_checkpointing": checkpointing, "attention": "sdpa"}
    found = kept_bytes(larger, **options) - kept_bytes(SMALL, **options)
    sizes = (shape.activations(TOKENS, checkpointing, bytes_each=4) for shape in (larger, SMALL))
    assert found == next(sizes) - next(sizes)


def test_recomputing_and_sharing_save_what_they_say() -> None:
    shape, tokens = SHAPES["8B"], 4096
    whole = shape.activations(tokens, False)
    assert shape.activations(tokens, True) == shape.num_layers * 4096 * tokens * 2 + whole / shape.num_layers
    assert whole / 8 < shape.activations(tokens, False, ranks=8) < whole / 2


def test_state_is_sixteen_bytes_by_the_number_of_cards() -> None:
    assert memory(SMALL, Plan(4, 2))["state"] == 16 * SMALL.parameters / 8
    assert memory(SMALL, Plan(1))["gathered"] == 0


def test_communication_vanishes_alone_and_doesn_t_grow_with_the_cards() -> None:
    assert set(communication(SMALL, Plan(1)).values()) == {0.0}
    blocks = SMALL.num_layers * SMALL.block
    limit = 2 * (2 * blocks + SMALL.around) + 4 * SMALL.parameters
    assert communication(SMALL, Plan(2))["data"] == limit / 2
    assert communication(SMALL, Plan(1024))["data"] == limit * 1023 / 1024


def test_time_of_computing_is_that_of_the_operations() -> None:
    shape, plan, card = SHAPES["8B"], Plan(8), Card()
    with torch.device("meta"):
        flops = forward_flops(build(shape))
    needed = flops.training(plan.tokens, plan.length**2, plan.tokens / 2)
    assert seconds(shape, plan, card, utilisation=0.5)["computing"] == pytest.approx(needed / (0.5 * card.flops))


def test_the_page_shows_this_table_and_every_plan_fits() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for line in table(Card()):
        assert line in text
    for name, plans in PLANS.items():
        for plan in plans:
            assert sum(memory(SHAPES[name], plan).values()) < 0.9 * Card().memory
