"""The loss of a head that is one matrix, whose gradient is written down instead of being left to autograd.

    z = W h + b,   total = sum_n weight_n nll_n,   d total / d z_nv = weight_n (softmax(z_n)_v - [v = target_n])

A chunk's logits become their gradient in place, and the gradient of W is summed up inside of the matrix product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearNLL(torch.autograd.Function):
    """The weighted sum and its terms, as in `llada.heads.cross_entropy.weighted_nll`, a chunk of rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: int,
        forbidden: int | None,
        targets: Tensor,
        weights: Tensor,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Value and gradients in one pass, ``rows`` at a time."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        w, offset = matrix.to(dtype), None if bias is None else bias.to(dtype)
        wanted = zip((hidden, matrix, bias), ctx.needs_input_grad[-3:], strict=True)
        gradients = [torch.zeros_like(p) if want and p is not None else None for p, want in wanted]
        terms = []
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), rows):
                span = slice(start, start + rows)
                h = hidden[span].to(dtype)
                terms.append(_chunk(h, w, offset, targets[span], weights[span], forbidden, span, gradients))
        ctx.save_for_backward(*gradients)
        nlls = torch.cat(terms)
        ctx.mark_non_differentiable(nlls)
        return (nlls * weights.to(nlls)).sum(), nlls

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, scaled."""
        parts = (None if part is None else part * gradient.to(part.dtype) for part in ctx.saved_tensors)
        return None, None, None, None, *parts


def _chunk(
    h: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    forbidden: int | None,
    span: slice,
    gradients: list[Tensor | None],
) -> Tensor:
    """The terms of a chunk, whose gradients are added to those of hidden rows, matrix and bias."""
    z = F.linear(h, matrix, bias)
    z = z if z.dtype == torch.float64 else z.float()
    if forbidden is not None:
        z[:, forbidden] = -torch.inf
    target, weight = targets[:, None], weights[:, None].to(z)
    of_target, top = z.gather(1, target), z.amax(1, keepdim=True)
    mass = z.sub_(top).exp_().sum(1, keepdim=True)
    terms = (mass.log() + top - of_target)[:, 0]
    z.mul_(weight / mass).scatter_add_(1, target, -weight)
    of_hidden, of_matrix, of_bias = gradients
    if of_bias is not None:
        of_bias += z.sum(0)
    z = z.to(h.dtype)
    if of_hidden is not None:
        of_hidden[span] = z @ matrix
    if of_matrix is not None and of_matrix.dtype == h.dtype:
        of_matrix.addmm_(z.T, h)
    elif of_matrix is not None:
        of_matrix += z.T @ h
    return terms


def as_matrix(head: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and bias of a head that does nothing else, and that are plain and whole on this process."""
    named = dict(head.named_parameters())
    is_linear = type(head).forward is nn.Linear.forward or getattr(head, "is_linear", False)
    has_hooks = head._forward_hooks or head._forward_pre_hooks
    if not is_linear or has_hooks or any(type(p) is not nn.Parameter for p in named.values()):
        return None
    return named["weight"], named.get("bias")
