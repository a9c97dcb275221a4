"""Cross-entropy, and the entropy of the answers that are right; gradients are made while a chunk's logits are there.

    total = sum_n w_n ( -log p_n[label_n] ) + c (W / W_right) sum_{n right} w_n H(q_n)

    p = softmax(z),   q = softmax(z / T),   right: arg max z_n = label_n,   W = sum_n w_n,   W_right = sum_{n right} w_n

    d H(q_n) / d z_nv = -(1 / T) q_nv (log q_nv + H(q_n))

so with equal weights total / W is the mean cross-entropy, plus c times the mean entropy over what is right. Less
entropy where the model is right anyway is what decoding by confidence needs to write many tokens in a call.

Reference: Chen et al., "dParallel: Learnable Parallel Decoding for dLLMs", arXiv 2509.26488; the released
``compute_loss``.

Shapes: N positions, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llada.heads.cross_entropy import Head, chunk_rows, vocab_size
from llada.heads.gradients import with_gradients


class Certainty(NamedTuple):
    """The loss, and its parts.

    Attributes:
        total: () nats, differentiable with respect to ``hidden`` and the head's parameters.
        nll: (N,) detached, -log p_n of the label.
        entropy: (N,) detached, of q_n, in nats.
        right: (N,) bool, whether the best token is the label.
    """

    total: Tensor
    nll: Tensor
    entropy: Tensor
    right: Tensor


def certainty_loss(
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    weights: Tensor,
    suppressed: int | None = None,
    *,
    certainty: float = 2.0,
    temperature: float = 0.5,
    chunk_elements: int | None = None,
) -> Certainty:
    """The loss, a chunk of rows at a time.

    Args:
        head: (n, D) -> (n, V).
        hidden: (N, D).
        labels: (N,) int64.
        weights: (N,), constants.
        suppressed: a token that the softmax leaves out, or None.
        certainty: c.
        temperature: T.
        chunk_elements: logits that may live at once; None for what suits the device.
    """
    if len(hidden) == 0:  # every parameter stays in the graph: DDP waits for all of their gradients
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        return Certainty(hidden.sum() + head(hidden).sum(), nothing, nothing, nothing.bool())
    wanted = [p for p in head.parameters() if p.requires_grad] if isinstance(head, nn.Module) else []
    grad = torch.is_grad_enabled() and (hidden.requires_grad or bool(wanted))
    sums = [[torch.zeros_like(hidden), *map(torch.zeros_like, wanted)] for _ in range(2)]  # of either term
    rows, found = chunk_rows(hidden, vocab_size(head, hidden), chunk_elements), []
    for start in range(0, len(hidden), rows):
        span = slice(start, start + rows)
        h = hidden[span].detach().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            z = head(h)
        terms, slopes = _judged(z.detach(), labels[span], weights[span], suppressed, temperature)
        found.append(terms)
        for kept, dz in zip(sums, slopes if grad else (), strict=False):
            first, *parts = torch.autograd.grad(z, [h, *wanted], dz.to(z.dtype), retain_graph=True, allow_unused=True)
            kept[0][span] = first
            for gradient, part in zip(kept[1:], parts, strict=True):
                if part is not None:
                    gradient += part
        del z, slopes  # before the next chunk's logits are made
    nll, entropy, right = (torch.cat(parts) for parts in zip(*found, strict=True))
    weights = weights.to(nll)
    scale = certainty * weights.sum() / (weights * right).sum().clamp(min=1e-12) * right.any()
    total = (weights * nll).sum() + scale * (weights * right * entropy).sum()
    if grad:
        both = [one + scale.to(two) * two for one, two in zip(*sums, strict=True)]
        total = with_gradients(total, (hidden, *wanted), both)
    return Certainty(total, nll, entropy, right)


@torch.no_grad()
def _judged(
    z: Tensor, labels: Tensor, weights: Tensor, suppressed: int | None, temperature: float
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(nll, entropy, right) of a chunk, (n,) each, and the slopes of both weighted sums in z, (n, V) each."""
    z = z if z.dtype == torch.float64 else z.float()
    if suppressed is not None:
        z = z.masked_fill(torch.arange(z.shape[-1], device=z.device) == suppressed, -torch.inf)
    log_p, log_q = z.log_softmax(-1), (z / temperature).log_softmax(-1)
    q = log_q.exp()
    log_q = log_q.masked_fill(q == 0.0, 0.0)  # where q is 0, its share of the entropy is
    entropy, right = -(q * log_q).sum(1), z.argmax(1) == labels
    nll = -log_p.gather(1, labels[:, None])[:, 0]
    ce = log_p.exp().scatter_add_(1, labels[:, None], -torch.ones_like(nll)[:, None])
    of_entropy = -q * (log_q + entropy[:, None]) / temperature
    weights = weights.to(nll)[:, None]
    return (nll, entropy, right), (ce * weights, of_entropy * weights * right[:, None])
