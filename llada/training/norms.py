"""The norm of a model's gradients or weights, whole also where each rank holds a part.

|x|^2 = sum over tensors and ranks of |part|^2 / (ranks that hold the same part)
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.utils import get_total_norm


@torch.no_grad()
def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, () float32; not finite where an entry isn't, or its square overflows.

    Where tensors are sharded every rank must ask, and all of them get the same number.

    Args:
        tensors: of any shapes and dtypes, perhaps `DTensor`s.
    """
    found = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    if not any(isinstance(tensor, DTensor) for tensor in found):
        return get_total_norm([_wide(tensor) for tensor in found]).float() if found else torch.zeros(())
    parts: dict[int, list[Tensor]] = {}
    for tensor in found:
        local, copies = _part(tensor)
        parts.setdefault(copies, []).append(_wide(local))
    squares = [get_total_norm(group).float().square() / copies for copies, group in parts.items()]
    square = torch.stack(squares).sum()
    dist.all_reduce(square)
    return square.sqrt()


def _wide(tensor: Tensor) -> Tensor:
    """The squares of float16 numbers overflow too early."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _part(tensor: Tensor) -> tuple[Tensor, int]:
    """What this rank holds of a tensor, and how many ranks hold the same."""
    world = dist.get_world_size()
    if not isinstance(tensor, DTensor):
        return tensor, world
    whole = [Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    tensor = tensor.redistribute(placements=whole)
    shards = 1
    for size, placement in zip(tensor.device_mesh.shape, whole, strict=True):
        shards *= 1 if placement.is_replicate() else size
    return tensor.to_local(), world // shards
