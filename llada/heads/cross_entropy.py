"""Cross-entropy of a vocabulary head, a chunk of rows at a time.

    nll_n = log sum_v exp z_nv - z_n,target(n),   z = head(h)

Logits are the largest tensor of a language model: N rows of 126,464 float32 numbers are N / 2 MB. Here no more than one
chunk of them lives at any time, in the forward and in the backward pass. On the CPU, where no gradient is wanted, the
chunk is a tile of some columns, so that the passes over it run in the processor's caches:

    m' = max(m, max_v z_nv),   s' = s exp(m - m') + sum_v exp(z_nv - m'),   v in the tile;   log sum exp = m + log s
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llada.heads.gradients import matrix_and_bias

CHUNK_ELEMENTS = 1 << 23
"""Logits per chunk on the CPU: 32 MiB in float32, which its caches serve better than more."""

LEAST_ROWS = 128
"""Rows per chunk on the CPU, at least: with fewer, the gradient of the matrix is gone through too often."""

TILE_ELEMENTS, TILE_ROWS = 1 << 20, 1024
"""Logits and rows of a tile, at most."""

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
    linear = None if torch.is_grad_enabled() else _tiling(head, hidden, targets)
    if linear is not None:
        return tiled_nll(*linear, hidden, targets, suppressed, chunk_elements=chunk_elements)
    rows = chunk_rows(hidden, vocab_size(head, hidden), chunk_elements)
    if rows >= len(hidden):
        return nll(head(hidden), targets, suppressed)

    def piece(h: Tensor, y: Tensor) -> Tensor:
        return nll(head(h), y, suppressed)

    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(piece, h, y, use_reentrant=False) for h, y in pairs])
    return torch.cat([piece(h, y) for h, y in pairs])


def _tiling(head: Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and bias of a head whose columns can be taken apart, if that is faster; else None."""
    if hidden.device.type != "cpu" or hidden.dtype not in (torch.float32, torch.float64):
        return None
    linear = None if torch.is_autocast_enabled("cpu") else matrix_and_bias(head)
    if linear is None or linear[0].dtype != hidden.dtype:
        return None
    known = (targets >= 0) & (targets < len(linear[0]))  # a cross-entropy ignores some others, and refuses the rest
    return linear if bool(known.all()) else None


def tiled_nll(
    matrix: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    targets: Tensor,
    suppressed: int | None = None,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """`nll` of ``hidden @ matrix.T + bias`` without gradients, a tile of rows and columns at a time.

    Args:
        matrix: (V, D).
        bias: (V,), or None.
        hidden: (N, D).
        targets: (N,) int64, from 0 to V - 1.
        suppressed: a token that the softmax leaves out, or None.
        chunk_elements: logits that may live at once; None for what suits the caches.

    Returns:
        (N,) of the dtype of ``hidden``, in nats.
    """
    most = TILE_ELEMENTS if chunk_elements is None else chunk_elements
    rows = min(len(hidden), TILE_ROWS, most)
    columns = max(1, min(len(matrix), most // rows))
    buffer, found = hidden.new_empty(rows * columns), []
    for h, target in zip(hidden.split(rows), targets[:, None].split(rows), strict=True):
        # The largest so far starts at a finite number, so that a tile of nothing but minus infinity adds nothing.
        top, mass = h.new_full((len(h), 1), torch.finfo(h.dtype).min), h.new_zeros(len(h), 1)
        of_target = h.new_empty(len(h), 1)
        for start in range(0, len(matrix), columns):
            part = matrix[start : start + columns]
            z = buffer[: len(h) * len(part)].view(len(h), len(part))
            if bias is None:
                torch.mm(h, part.T, out=z)
            else:
                torch.addmm(bias[start : start + columns], h, part.T, out=z)
            if suppressed is not None and start <= suppressed < start + len(part):
                z[:, suppressed - start] = -torch.inf
            inside = (target >= start) & (target < start + len(part))
            of_target = torch.where(inside, z.gather(1, (target - start).clamp(0, len(part) - 1)), of_target)
            higher = torch.maximum(top, z.amax(1, keepdim=True))
            mass = mass * (top - higher).exp_() + z.sub_(higher).exp_().sum(1, keepdim=True)
            top = higher
        found.append((mass.log_() + top - of_target)[:, 0])
    return torch.cat(found)
