"""A number whose gradients are made with it, and what a head must be for that."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def matmul_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype in which the head multiplies ``hidden``: autocast's where that is on, its own elsewhere."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def matrix_and_bias(head: Any) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and bias of a head that does nothing else, and that are plain and whole on this process; or None."""
    if not isinstance(head, nn.Module):
        return None
    named = dict(head.named_parameters())
    is_linear = type(head).forward is nn.Linear.forward or getattr(head, "is_linear", False)
    has_hooks = head._forward_hooks or head._forward_pre_hooks
    if not is_linear or has_hooks or any(type(p) is not nn.Parameter for p in named.values()):
        return None
    if "weight" not in named:  # parametrised
        return None
    return named["weight"], named.get("bias")


def with_gradients(total: Tensor, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> Tensor:
    """A number with these gradients with respect to the inputs.

    Args:
        total: (), without a graph.
        inputs: what it was computed from.
        gradients: of the same shapes; None where none is wanted.
    """
    return _GradientsMade.apply(total, gradients, *inputs)  # type: ignore[no-untyped-call]


class _GradientsMade(torch.autograd.Function):
    """A number whose gradients have been computed already; the backward pass scales them and hands them out."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: Sequence[Tensor | None], *_: Tensor | None) -> Tensor:
        ctx.save_for_backward(*gradients)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        parts = (None if part is None else part * scale.to(part.dtype) for part in ctx.saved_tensors)
        return None, None, *parts
