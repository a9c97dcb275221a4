"""How a backbone is split over ranks: FSDP2 by blocks, tensor parallelism inside of a block, and weights from nothing.

W = R T ranks form a mesh (data_parallel R, tensor_parallel T). Ranks of one data-parallel place see the same rows.

- Data parallelism: each rank keeps 1/R of every parameter, gradient and optimiser state, and gathers a block's
  parameters when the block runs. The head is a group of its own, gathered from the loss to its backward pass: the loss
  runs it in chunks and makes its gradient on the way, which is summed over ranks beside the blocks' backward passes.
  Embedding and final norm, and a head that is the embedding, are one more group, gathered for a whole step.
- Hybrid sharding: each rank keeps 1/S, and R / S groups of S ranks hold copies. Parameters are gathered within a group,
  such as the cards of a node, and only gradients go between groups.
- Tensor parallelism: each rank computes 1/T of the heads, of the feed-forward width and of the vocabulary.

A backbone that was built under ``torch.device("meta")`` gets its weights once it is split
(`llada.training.weights`), so that no rank ever holds the whole.

Reference: Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3; Zhao et al., "PyTorch FSDP", arXiv 2304.11277.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from llada.backbones import BidirectionalTransformer
from llada.backbones.layers import Attention, Block, SwiGLU
from llada.checkpoints.quantised import quantised_layers
from llada.training.head_group import shard_head
from llada.training.weights import materialise

DATA, TENSOR = "data_parallel", "tensor_parallel"
"""Names of the mesh's dimensions, as Lightning's ``ModelParallelStrategy`` has them."""

PLANNED = (nn.ModuleList, Block, Attention, SwiGLU, nn.Linear, nn.Embedding, nn.RMSNorm, nn.Identity)
"""Kinds of modules that tensor parallelism can split."""

WHOLE_ONLY = "quantised matrices can't be split over ranks; use the strategy ddp, or leave quantise out"
"""Why they are refused: blocks of codes share their scales."""

HEADS_DIM = 1
"""Of queries and keys, (B, H, L, d)."""


class Replicas(NamedTuple):
    """The ranks that see different rows.

    Attributes:
        size: R, how many there are.
        rank: which of them this process is.
        group: over which their sums go; None for all processes.
    """

    size: int
    rank: int
    group: dist.ProcessGroup | None


def replicas(mesh: DeviceMesh | None, world_size: int, rank: int) -> Replicas:
    """Who sees which rows.

    Args:
        mesh: of the strategy; None where every process sees rows of its own.
        world_size: processes.
        rank: of this process.
    """
    if mesh is None:
        return Replicas(world_size, rank, None)
    return Replicas(mesh[DATA].size(), mesh.get_local_rank(DATA), mesh.get_group(DATA))


def place(
    backbone: nn.Module,
    mesh: DeviceMesh | None,
    device: torch.device,
    seed: int,
    dtype: torch.dtype | None = None,
    shard_size: int | None = None,
    weights: Callable[[nn.Module, torch.device], None] | None = None,
) -> None:
    """Split a backbone over a mesh, and give it weights if it was built on the meta device; a second call does nothing.

    Args:
        backbone: to be changed in place.
        mesh: (data_parallel, tensor_parallel); None to leave it whole.
        device: of its parameters.
        seed: of the weights, if it has none.
        dtype: in which parameters are gathered and computed with; gradients are summed in float32. None: as stored.
        shard_size: ranks that share one copy of the weights, S; None for all that see different rows.
        weights: gives a backbone without any its weights, on a device; None for its own ``reset_parameters``.

    Raises:
        ValueError: if it can't be split or can't make its own weights, saying why.
    """
    if mesh is not None and not isinstance(backbone, FSDPModule):
        if quantised_layers(backbone):
            raise ValueError(WHOLE_ONLY)
        if mesh[TENSOR].size() > 1:
            split_tensors(backbone, mesh[TENSOR])
        split_data(backbone, mesh[DATA] if shard_size is None else hybrid(mesh, shard_size), dtype)
    if any(parameter.is_meta for parameter in backbone.parameters()):
        if weights is None:
            materialise(backbone, device, seed)
        else:
            weights(backbone, device)


def split_data(backbone: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard the parameters (FSDP2): a group per block, one for the head, and one for what is left.

    Args:
        backbone: with its blocks in an `nn.ModuleList`.
        mesh: one-dimensional, or (copies, shards) as from `hybrid`.
        dtype: as in `place`.
    """
    policy = MixedPrecisionPolicy(dtype, None if dtype is None else torch.float32, cast_forward_inputs=False)
    for block in blocks_of(backbone):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    shard_head(backbone, mesh=mesh, mp_policy=policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(backbone, "hidden")


def hybrid(mesh: DeviceMesh, shard_size: int) -> DeviceMesh:
    """Ranks as (copies, shards), neighbours in one group of shards; every rank must ask.

    Args:
        mesh: (data_parallel, tensor_parallel).
        shard_size: S.

    Raises:
        ValueError: if it doesn't divide the ranks, or tensors are split as well.
    """
    size = mesh[DATA].size()
    if mesh[TENSOR].size() > 1:
        raise ValueError(
            f"shard_size={shard_size} goes with tensor_parallel_size=1; got {mesh[TENSOR].size()}; give one of them"
        )
    if shard_size < 1 or size % shard_size:
        raise ValueError(f"shard_size={shard_size} must divide data_parallel_size={size}")
    ranks = mesh.mesh.view(-1, shard_size)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("copies", "shards"))


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The members of every module list that isn't part of another one's member."""
    lists = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [block for name in outer for block in lists[name]]


class _Replicated(ParallelStyle):
    """A module that every rank computes in full; its parameters live on the same mesh as those that are split.

    Its result may stay a `DTensor`: then the gradients of several column-wise projections that read it are summed
    before they are communicated.
    """

    def __init__(self, local_output: bool = False) -> None:
        super().__init__()
        self.local_output = local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, input_fn=self._enter, output_fn=self._leave)

    def _enter(self, _: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
        return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False), *inputs[1:]

    def _leave(self, _: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
        return output.to_local() if self.local_output else output


def _tensor_plan() -> dict[str, ParallelStyle]:
    """Of `llada.backbones.BidirectionalTransformer`."""
    column, row, norm = ColwiseParallel, RowwiseParallel, _Replicated
    per_head = partial(SequenceParallel, sequence_dim=HEADS_DIM, use_local_output=True)
    return {
        "embedding": row(input_layouts=Replicate()),
        "blocks.*.attention_norm": norm(),
        **{f"blocks.*.attention.{name}": column() for name in ("q_proj", "k_proj", "v_proj")},
        **{f"blocks.*.attention.{name}": per_head() for name in ("q_norm", "k_norm")},
        "blocks.*.attention.o_proj": row(),
        "blocks.*.feed_forward_norm": norm(),
        **{f"blocks.*.feed_forward.{name}": column() for name in ("gate_proj", "up_proj")},
        "blocks.*.feed_forward.down_proj": row(),
        "final_norm": norm(local_output=True),
        "head": column(output_layouts=Replicate()),
    }


def split_tensors(backbone: nn.Module, mesh: DeviceMesh) -> None:
    """Split heads, feed-forward width and vocabulary (Megatron's tensor parallelism).

    Args:
        backbone: a `llada.backbones.BidirectionalTransformer`.
        mesh: one-dimensional.

    Raises:
        ValueError: if its sizes don't divide by the ranks, or it has parts that there is no plan for.
    """
    size, kind = mesh.size(), type(backbone).__name__
    if not isinstance(backbone, BidirectionalTransformer):
        raise ValueError(f"there is no tensor-parallel plan for {kind}; use tensor_parallel_size=1")
    for name in ("num_heads", "num_kv_heads", "hidden_width"):
        value = getattr(backbone, name)
        if value % size:
            raise ValueError(f"tensor_parallel_size={size} must divide {name}={value}")
    for name, module in backbone.named_modules():
        if type(module) not in (type(backbone), *PLANNED):
            kind = type(module).__name__
            raise ValueError(f"tensor parallelism doesn't know {name}, a {kind}; use FSDP2 alone")
    parallelize_module(backbone, mesh, _tensor_plan())
