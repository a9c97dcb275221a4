"""A vocabulary head that multiplies few rows again and again, as decoding does.

    z = W h + b,   W (V, D) the same in every call,   h (n, D) with n of 2 to some hundred

A matrix product on a CPU first copies blocks of its matrix into the order in which the processor reads them. With few
rows this copying is half of the work. Here it is done once: oneDNN's reordered W is kept from the fifth such call on,
when it has paid for itself, until the head's matrix changes. The logits equal those of the head up to the rounding of
float32 sums. The copy takes the memory of W again, for as long as this object lives.
"""

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from llada.heads.gradients import matrix_and_bias

LEAST_ELEMENTS = 1 << 20
"""Of W. A smaller one stays in the processor's caches, and is multiplied as fast as it is."""

CALLS_THAT_PAY = 5
"""Reordering takes the time of about four calls with few rows."""


T = TypeVar("T")
_plain_only = ContextVar("plain_only", default=False)


def plainly(steps: Iterator[T]) -> Iterator[T]:
    """The steps of a loop, in which heads are called as they are.

    For numbers that are compared with those of passes with gradients, in which no matrix is reordered: a ratio of the
    two is then exactly 1.
    """
    while True:
        before = _plain_only.set(True)
        try:
            step = next(steps)
        except StopIteration:
            return
        finally:
            _plain_only.reset(before)
        yield step


class PrepackedHead:
    """Applies heads of a decoding session; remembers the matrix of one.

    Args:
        calls_that_pay: the call from which on the matrix is reordered. 1 where thousands will follow: then no call is
            rounded in another way than the others.
    """

    def __init__(self, calls_that_pay: int = CALLS_THAT_PAY) -> None:
        self.calls_that_pay = calls_that_pay
        self._calls, self._of = 0, (0, 0, 0)
        self._packed: Tensor | None = None

    def __call__(self, head: Any, hidden: Tensor) -> Tensor:
        """``head(hidden)``, (..., D) -> (..., V).

        Args:
            head: any head; one that is more than a matrix in float32 on the CPU is called as it is.
            hidden: (..., D).
        """
        linear = _plain(head, hidden)
        if linear is None:
            return self._called(head, hidden)
        matrix, bias = linear
        now = id(matrix), matrix.data_ptr(), matrix._version
        if now != self._of:
            self._calls, self._of, self._packed = 0, now, None
        self._calls += 1
        if self._calls < self.calls_that_pay:
            return self._called(head, hidden)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(matrix, hidden[..., 0].numel())
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self._packed, bias, "none", [], "")
        return logits

    @staticmethod
    def _called(head: Any, hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden)
        return logits


def _plain(head: Any, hidden: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and bias, if this product is worth it and oneDNN can do it; else None."""
    if hidden.device.type != "cpu" or hidden.dtype != torch.float32 or hidden.numel() < 2 * hidden.shape[-1]:
        return None
    if _plain_only.get():
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not _offered():
        return None
    linear = matrix_and_bias(head)
    if linear is None or linear[0].dtype != torch.float32 or linear[0].is_inference():
        return None
    return linear if linear[0].numel() >= LEAST_ELEMENTS and linear[0].device.type == "cpu" else None


def _offered() -> bool:
    """Whether this PyTorch has the operators that `torch.compile` uses for the same purpose."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
