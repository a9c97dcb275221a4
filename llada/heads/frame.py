"""The frame around a loss in which a head's parameters are whole.

A loss works on a head in chunks, or on its matrix itself. Where ranks hold parts of the head
(`llada.training.head_group`), gathering belongs around the loss and its backward pass, not around every call of the
head. For every other head the frame is nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
FRAME = "with_whole_parameters"
"""Name of the method of a head that has to gather its parameters: a computation and its input -> the result."""


def with_whole_head(head: Any, compute: Callable[[Any, Tensor], T], hidden: Tensor) -> T:
    """``compute(head, hidden)``, with the head's parameters whole in it and in its backward pass.

    Args:
        head: any head.
        compute: gets a head to call or to read, as often as it likes, and must not keep it. Its result is a tensor, or
            a tuple with tensors.
        hidden: (N, D), what the head reads.
    """
    frame = getattr(head, FRAME, None)
    return compute(head, hidden) if frame is None else frame(compute, hidden)
