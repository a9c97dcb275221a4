"""Activation checkpointing: the same gradients, bit for bit, and less that is kept."""

import copy
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.backbones.checkpointing import Checkpointing, EveryBlock, Selective, as_checkpointing
from llada.checkpoints.describe import build, describe

MODELS = {
    "transformer": lambda **options: BidirectionalTransformer(20, width=32, num_layers=4, num_heads=2, **options),
    "dit": lambda **options: DiffusionTransformer(20, width=32, num_layers=4, num_heads=2, dropout=0.1, **options),
}
POLICIES = [True, EveryBlock(), EveryBlock(2), EveryBlock(9), Selective(), Selective(2)]


def step(model: Any, **arguments: Any) -> tuple[int, list[Tensor]]:
    """Numbers kept for the backward pass, and the gradients."""
    torch.manual_seed(1)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    tokens = torch.randint(20, (2, 16), generator=torch.Generator().manual_seed(2))
    with saved_tensors_hooks(keep, lambda x: x):
        hidden = model.hidden(tokens, **arguments)
    hidden.square().sum().backward()
    return sum(kept.values()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def made(name: str, policy: bool | Checkpointing) -> Any:
    torch.manual_seed(0)
    model = MODELS[name](activation_checkpointing=policy)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_bit_equal(name: str, policy: bool | Checkpointing, padded: bool) -> None:
    arguments = {"attention_mask": torch.arange(16) < torch.tensor([[16], [9]])} if padded else {}
    arguments["select"] = torch.tensor([1, 4, 20])
    expected, found = (step(made(name, p), **arguments)[1] for p in (False, policy))
    assert len(found) == len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_kept_grows_from_every_block_to_none() -> None:
    kept = [step(made("transformer", policy))[0] for policy in (EveryBlock(), EveryBlock(2), False)]
    assert kept == sorted(kept)
    assert kept[0] < 0.5 * kept[-1]


def test_selective_repeats_neither_attention_nor_matrix_products() -> None:
    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.counts: dict[str, int] = {}

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            name = str(operation)
            self.counts[name] = self.counts.get(name, 0) + 1
            return operation(*args, **(kwargs or {}))

    counts = {}
    for policy in (False, Selective(), Selective(3), EveryBlock()):
        with Count() as count:
            step(made("transformer", policy))
        attention = count.counts["aten._scaled_dot_product_flash_attention_for_cpu.default"]
        counts[repr(policy)] = attention, count.counts["aten.mm.default"]
    plain, selective, third, every = counts.values()
    assert selective == plain
    assert third == (plain[0], plain[1] + 4 * 4)  # of a block's seven products, 0, 3 and 6 are kept
    assert every[0] == 2 * plain[0]
    assert every[1] == plain[1] + 4 * 6  # nothing asks for the last one's result again


def test_evaluation_keeps_what_it_keeps() -> None:
    model = made("transformer", EveryBlock()).eval()
    assert step(model)[0] == step(made("transformer", False).eval())[0]


def test_policies_are_part_of_a_description() -> None:
    model = made("transformer", Selective(2))
    again = build(describe(model), torch.nn.Module)
    assert again.activation_checkpointing == Selective(2)


def test_values() -> None:
    assert as_checkpointing(False) is None
    assert as_checkpointing(True) == EveryBlock(1)
    for policy in (EveryBlock, Selective):
        with pytest.raises(ValueError, match="n must be 1 or more; got 0"):
            policy(0)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="PyTorch 2.6 compiles every block anew where it is recomputed in part"
)
def test_selective_repeats_no_matrix_product_in_compiled_blocks_either() -> None:
    """Seven products of a block make fourteen gradients; as inductor splits the graphs, no other is computed again."""
    torch._dynamo.reset()
    counters.clear()
    runs, products = [], []

    def forward(graph: torch.fx.GraphModule, example: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            runs.append(1)
            return graph(*arguments)

        return make_boxed_func(counted)

    def backward(graph: torch.fx.GraphModule, example: Any) -> Any:
        products.append(sum(node.target is torch.ops.aten.mm.default for node in graph.graph.nodes))
        return make_boxed_func(graph)

    split = min_cut_rematerialization_partition
    model = made("transformer", Selective())
    expected = step(made("transformer", False))[1]
    model.compile(backend=aot_autograd(fw_compiler=forward, bw_compiler=backward, partition_fn=split), fullgraph=True)
    found = step(model)[1]
    assert (counters["stats"]["unique_graphs"], products, len(runs)) == (1, [14], len(model.blocks))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


def test_a_compiled_layer_is_copied_uncompiled() -> None:
    model = made("transformer", Selective())
    model.compile(backend="eager")
    again = copy.deepcopy(model.blocks[0])
    assert again._compiled_recomputed is again._compiled_call_impl is None
    assert model.blocks[0]._compiled_recomputed is not None
