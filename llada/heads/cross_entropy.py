"""Cross-entropy of a vocabulary head, a chunk of rows at a time.

    nll_n = log sum_v exp z_nv - z_n,target(n),   z = head(h)

Logits are the largest tensor of a language model: N rows of 126,464 float32 numbers are N / 2 MB. Here no more than one
chunk of them lives at any time, in the forward and in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llada.heads.linear_nll import LinearNLL, as_matrix

CHUNK_ELEMENTS = 1 << 23
"""Logits per chunk on the CPU: 32 MiB in float32, which its caches serve better than more."""

LEAST_ROWS = 128
"""Rows per chunk on the CPU, at least: with fewer, the gradient of the matrix is gone through too often."""

ACCELERATOR_CHUNK_ELEMENTS = 1 << 27
"""Logits per chunk elsewhere: a thousand rows of 126,464, for each chunk reads the head's matrix from memory again."""

Head = Callable[[Tensor], Tensor]


def nll(logits: Tensor, targets: Tensor, forbidden: int | None = None) -> Tensor:
    """Negative log-likelihood of each row's target.

    Args:
        logits: (N, V).
        targets: (N,) int64.
        forbidden: a token that the softmax leaves out (its logit counts as minus infinity), or None.

    Returns:
        (N,) float32 (float64 for float64 logits), in nats.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    if forbidden is not None:
        banned = torch.arange(logits.shape[-1], device=logits.device) == forbidden
        logits = logits.masked_fill(banned, -torch.inf)
    return F.cross_entropy(logits, targets, reduction="none")


def chunk_rows(hidden: Tensor, vocab_size: int, chunk_elements: int | None) -> int:
    """Rows per chunk.

    Args:
        hidden: (N, D).
        vocab_size: V.
        chunk_elements: logits that may live at once; None for what suits the device.
    """
    least = 1
    if chunk_elements is None:
        on_cpu = hidden.device.type == "cpu"
        least, chunk_elements = (LEAST_ROWS, CHUNK_ELEMENTS) if on_cpu else (1, ACCELERATOR_CHUNK_ELEMENTS)
    return max(1, min(len(hidden), max(least, chunk_elements // max(vocab_size, 1))))


def _vocab_size(head: Head, hidden: Tensor) -> int:
    with torch.no_grad():
        return head(hidden[:1]).shape[-1]


def chunked_nll(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    forbidden: int | None = None,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """`nll` of ``head(hidden)``, differentiable; the backward pass computes each chunk's logits again.

    Args:
        head: (n, D) -> (n, V).
        hidden: (N, D).
        targets: (N,) int64.
        forbidden: as in `nll`.
        chunk_elements: logits that may live at once; None for what suits the device.

    Returns:
        (N,) nats.
    """
    if len(hidden) == 0:
        return hidden.sum(-1).float()
    rows = chunk_rows(hidden, _vocab_size(head, hidden), chunk_elements)
    if rows >= len(hidden):
        return nll(head(hidden), targets, forbidden)

    def piece(h: Tensor, y: Tensor) -> Tensor:
        return nll(head(h), y, forbidden)

    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(piece, h, y, use_reentrant=False) for h, y in pairs])
    return torch.cat([piece(h, y) for h, y in pairs])


class _WeightedNLL(torch.autograd.Function):
    """sum_n weight_n nll_n whose gradient is made in the forward pass, where the weights are already known.

    So each chunk's logits are computed once, not again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        rows: int,
        forbidden: int | None,
        targets: Tensor,
        weights: Tensor,
        hidden: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        wanted = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) for p in wanted]
        hidden_gradient = torch.empty_like(hidden)
        values = []
        for start in range(0, len(hidden), rows):
            span = slice(start, start + rows)
            with torch.enable_grad():
                h = hidden[span].detach().requires_grad_()
                value = nll(head(h), targets[span], forbidden)
                total = (value * weights[span].to(value)).sum()
            hidden_gradient[span], *parts = torch.autograd.grad(total, [h, *wanted], allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                if part is not None:
                    gradient += part
            values.append(value.detach())
        ctx.save_for_backward(hidden_gradient, *gradients)
        ctx.needs = [p.requires_grad for p in parameters]
        nlls = torch.cat(values)
        ctx.mark_non_differentiable(nlls)
        return (nlls * weights.to(nlls)).sum(), nlls

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, *saved = ctx.saved_tensors
        parts = iter(saved)
        rest = [(next(parts) * gradient).to(hidden_gradient) if need else None for need in ctx.needs]
        return None, None, None, None, None, hidden_gradient * gradient, *rest


def weighted_nll(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    forbidden: int | None = None,
    *,
    chunk_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of `nll` of ``head(hidden)``, differentiable, and the terms for reporting.

    Args:
        head: (n, D) -> (n, V). If it is a module, its parameters get their gradients without a second pass.
        hidden: (N, D).
        targets: (N,) int64.
        weights: (N,), constants.
        forbidden: as in `nll`.
        chunk_elements: logits that may live at once; None for what suits the device.

    Returns:
        The sum, () in nats, and the terms nll_n without their weights, (N,) detached.
    """
    weights = weights.detach()
    if len(hidden) == 0:
        # Nothing is masked, but every parameter stays in the graph: DDP waits for all of their gradients.
        return hidden.sum() + head(hidden).sum(), hidden.new_zeros(0, dtype=torch.float32)
    rows = chunk_rows(hidden, _vocab_size(head, hidden), chunk_elements)
    given = (rows, forbidden, targets, weights, hidden)
    if torch.is_grad_enabled() and isinstance(head, nn.Module):
        linear = as_matrix(head)
        if linear is not None:
            return LinearNLL.apply(*given, *linear)  # type: ignore[no-untyped-call]
        if rows < len(hidden):
            return _WeightedNLL.apply(head, *given, *head.parameters())  # type: ignore[no-untyped-call]
    terms = chunked_nll(head, hidden, targets, forbidden, chunk_elements=chunk_elements)
    return (terms * weights.to(terms)).sum(), terms.detach()
