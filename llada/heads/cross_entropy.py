"""Cross-entropy of a vocabulary head, a chunk of rows at a time.

    nll_n = log sum_v exp z_nv - z_n,target(n),   z = head(h)

Logits are the largest tensor of a language model: N rows of 126,464 float32 numbers are N / 2 MB. Here no more than one
chunk of them lives at any time, in the forward and in the backward pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llada.heads.gradients import matmul_dtype, matrix_and_bias

CHUNK_ELEMENTS = 1 << 23
"""Logits per chunk on the CPU: 32 MiB in float32, which its caches serve better than more."""

LEAST_ROWS = 128
"""Rows per chunk on the CPU, at least: with fewer, the gradient of the matrix is gone through too often."""

ACCELERATOR_CHUNK_ELEMENTS = 1 << 27
"""Logits per chunk elsewhere: a thousand rows of 126,464, for each chunk reads the head's matrix from memory again."""

Head = Callable[[Tensor], Tensor]


def nll(logits: Tensor, targets: Tensor, suppressed: int | None = None) -> Tensor:
    """Negative log-likelihood of each row's target.

    Args:
        logits: (N, V).
        targets: (N,) int64.
        suppressed: a token that the softmax leaves out (its logit counts as minus infinity), or None.

    Returns:
        (N,) float32 (float64 for float64 logits), in nats.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    if suppressed is not None:
        left_out = torch.arange(logits.shape[-1], device=logits.device) == suppressed
        logits = logits.masked_fill(left_out, -torch.inf)
    return F.cross_entropy(logits, targets, reduction="none")


def chunk_rows(hidden: Tensor, vocab_size: int, chunk_elements: int | None) -> int:
    """Number of rows per chunk.

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


def vocab_size(head: Head, hidden: Tensor) -> int:
    """V of a head, asked with one of the rows.

    Args:
        head: (n, D) -> (n, V).
        hidden: (N, D), N > 0.
    """
    with torch.no_grad():
        return head(hidden[:1]).shape[-1]


def chunked_nll(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    suppressed: int | None = None,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """`nll` of ``head(hidden)``, differentiable; the backward pass computes each chunk's logits again.

    Args:
        head: (n, D) -> (n, V).
        hidden: (N, D).
        targets: (N,) int64.
        suppressed: a token that the softmax leaves out, or None.
        chunk_elements: logits that may live at once; None for what suits the device.

    Returns:
        (N,) float32 (float64 for float64 logits), in nats.
    """
    if len(hidden) == 0:
        return hidden.sum(-1).float()
    linear = None if torch.is_grad_enabled() else matrix_and_bias(head)
    if linear is not None and linear[0].dtype == matmul_dtype(hidden) == hidden.dtype:
        return _without_gradient(*linear, hidden, targets, suppressed, chunk_elements)
    rows = chunk_rows(hidden, vocab_size(head, hidden), chunk_elements)
    if rows >= len(hidden):
        return nll(head(hidden), targets, suppressed)

    def piece(h: Tensor, y: Tensor) -> Tensor:
        return nll(head(h), y, suppressed)

    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(piece, h, y, use_reentrant=False) for h, y in pairs])
    return torch.cat([piece(h, y) for h, y in pairs])


def _without_gradient(
    matrix: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    targets: Tensor,
    suppressed: int | None,
    chunk_elements: int | None,
) -> Tensor:
    """The same numbers as with a gradient, to the last bit, from two buffers that all chunks share.

    A system takes back what is as large as a chunk of logits, and clears it anew for each one.
    """
    rows, found = chunk_rows(hidden, len(matrix), chunk_elements), []
    logits = hidden.new_empty(rows, len(matrix))
    laws = torch.empty_like(logits, dtype=torch.promote_types(hidden.dtype, torch.float32))
    for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
        z, law = logits[: len(h)], laws[: len(h)]
        if bias is None:
            torch.mm(h, matrix.T, out=z)
        else:
            torch.addmm(bias, h, matrix.T, out=z)
        if suppressed is not None:
            z[:, suppressed] = -torch.inf
        torch.log_softmax(z.to(law.dtype), 1, out=law)
        found.append(-law.gather(1, y[:, None])[:, 0])
    return torch.cat(found)
