"""A whole tensor as one rank of several holds it."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


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
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
