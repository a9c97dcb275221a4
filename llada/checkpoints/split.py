"""A whole tensor as one rank of several holds it."""

import inspect
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

_SAME_EVERYWHERE: dict[str, Any] = (  # PyTorch 2.6 can't be told, and sends round what every rank has already
    {"src_data_rank": None} if "src_data_rank" in inspect.signature(distribute_tensor).parameters else {}
)


def split_like(whole: Tensor, like: Tensor) -> Tensor:
    """The values of a tensor, split as another one is.

    Args:
        whole: the same on every rank, on the device of ``like``'s part.
        like: of the same shape.

    Returns:
        ``whole`` itself where ``like`` isn't split.
    """
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, **_SAME_EVERYWHERE)
