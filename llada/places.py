"""Where a mask is true, found once: on a GPU to find it is to wait for the device, and a step asks several times.

    places(mask)[n]                the n-th true entry, as a flat index
    chosen(values, mask)           values[mask]
    placed(values, mask)           zeros, and then out[mask] = values

The places of a mask are kept as long as the mask lives, and found anew once it has been written to.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class _Found(NamedTuple):
    """Places, and the version of the mask that they are of."""

    places: Tensor
    version: int


_found = WeakTensorKeyDictionary()


def places(mask: Tensor) -> Tensor:
    """Flat indices of the true entries of a mask, (N,) int64, rising.

    Args:
        mask: bool, any shape.
    """
    if torch.compiler.is_compiling() or mask.is_inference():  # of which no version is counted
        return mask.flatten().nonzero()[:, 0]
    found = _found.get(mask)
    if found is None or found.version != mask._version:
        found = _found[mask] = _Found(mask.flatten().nonzero()[:, 0], mask._version)
    result: Tensor = found.places
    return result


def chosen(values: Tensor, mask: Tensor) -> Tensor:
    """``values[mask]``, (N,).

    Args:
        values: of the shape of the mask, or of one that expands to it.
        mask: bool.
    """
    return values.expand(mask.shape).reshape(-1).index_select(0, places(mask))


def placed(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros with values at the true entries of a mask, in the mask's shape.

    Args:
        values: (N,).
        mask: bool.
    """
    return values.new_zeros(mask.numel()).index_copy(0, places(mask), values).view(mask.shape)
