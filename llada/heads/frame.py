"""The frame around a loss in which a head's parameters are whole.

A loss works on a head in chunks, or on its matrix itself. Where ranks hold parts of the head
(`llada.training.head_group`), gathering belongs around the loss and its backward pass, not around every call of the
head. For every other head the frame is nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
FRAME = "with_whole_parameters"
"""Name of the method of a head that has to gather its parameters: a computation and its input -> the result."""


def framed(compute: Callable[..., T], head: Any) -> Callable[..., T]:
    """A computation, with a head's parameters whole in it and in its backward pass; for most heads as it is.

    Args:
        compute: gets a head to call or to read as often as it likes, which it must not keep; what the head reads,
            (N, D); and whatever else it is given. Its result is a tensor, or a tuple with tensors.
        head: any head.
    """
    frame = getattr(head, FRAME, None)
    if frame is None:
        return compute

    def gathered(_: Any, hidden: Any, *others: Any, **named: Any) -> T:
        result: T = frame(lambda whole, x: compute(whole, x, *others, **named), hidden)
        return result

    return gathered
