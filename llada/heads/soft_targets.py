"""The divergence of a vocabulary head from another model's, whose gradient is made while a chunk's logits are there.

    total = sum_n weight_n KL_n,   KL_n = sum_v p_nv (log p_nv - log q_nv),   p = softmax(teacher), q = softmax(z)

    d total / d z_nv = weight_n (q_nv - p_nv)

The loss of `llada.heads.head_loss` with a whole distribution in the place of one token: of either vocabulary no more
than a chunk of rows lives at any time, each chunk of logits becomes its own gradient, and is computed once.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llada.heads.cross_entropy import Head, chunk_rows, vocab_size
from llada.heads.gradients import with_gradients

Targets = Callable[[slice], Tensor]
"""Rows -> logits of the teacher, (n, V)."""


class Divergence(NamedTuple):
    """A weighted sum of divergences, and its parts.

    Attributes:
        total: () nats, differentiable with respect to ``hidden`` and the head's parameters.
        terms: (N,) detached, KL_n without the weights.
        nll: (N,) detached, -log q_n of the label.
    """

    total: Tensor
    terms: Tensor
    nll: Tensor


def soft_target_loss(
    head: Head,
    hidden: Tensor,
    targets: Targets,
    weights: Tensor,
    labels: Tensor,
    suppressed: int | None = None,
    *,
    chunk_elements: int | None = None,
) -> Divergence:
    """KL(teacher || student), a chunk of rows at a time.

    Args:
        head: (n, D) -> (n, V), of the student.
        hidden: (N, D).
        targets: the teacher's logits of some rows; asked once for each chunk, without a gradient.
        weights: (N,), constants.
        labels: (N,) int64, tokens whose likelihood is reported.
        suppressed: a token that both softmaxes leave out, or None.
        chunk_elements: logits of either model that may live at once; None for what suits the device.
    """
    if len(hidden) == 0:  # every parameter stays in the graph: DDP waits for all of their gradients
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        return Divergence(hidden.sum() + head(hidden).sum(), nothing, nothing)
    wanted = [p for p in head.parameters() if p.requires_grad] if isinstance(head, nn.Module) else []
    grad = torch.is_grad_enabled() and (hidden.requires_grad or bool(wanted))
    of_hidden, gradients = torch.zeros_like(hidden), [torch.zeros_like(p) for p in wanted]
    rows, terms, nlls = chunk_rows(hidden, vocab_size(head, hidden), chunk_elements), [], []
    for start in range(0, len(hidden), rows):
        span = slice(start, start + rows)
        with torch.no_grad():
            log_p = _log_softmax(targets(span), suppressed)
        h = hidden[span].detach().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            z = head(h)
        with torch.no_grad():
            log_q = _log_softmax(z, suppressed)
            p = log_p.exp()
            # Where p is 0 nothing counts, also where both logits are minus infinity.
            terms.append(torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1))
            nlls.append(-log_q.gather(1, labels[span, None])[:, 0])
            dz = (log_q.exp_().sub_(p)).mul_(weights[span, None].to(p)).to(z.dtype)
        if grad:
            of_hidden[span], *parts = torch.autograd.grad(z, [h, *wanted], dz, allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                if part is not None:
                    gradient += part
        del z, dz, p, log_p, log_q  # before the next chunk's logits are made
    found = torch.cat(terms)
    total = (found * weights.to(found)).sum()
    if grad:
        total = with_gradients(total, (hidden, *wanted), (of_hidden, *gradients))
    return Divergence(total, found, torch.cat(nlls))


def _log_softmax(logits: Tensor, suppressed: int | None) -> Tensor:
    """In float32, or float64 where the logits are; a new tensor."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if suppressed is not None:
        left_out = torch.arange(logits.shape[-1], device=logits.device) == suppressed
        logits = logits.masked_fill(left_out, -torch.inf)
    return logits.log_softmax(-1)
