"""Attention: one function, a description of who may see whom, and the kernels that compute it.

    attend(q, k, v) = softmax(q k^T / sqrt(d) + visibility) v

Shapes: B batch, H query heads, G key/value heads (G divides H), Q queries, K keys, d head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """Who may see whom. The default: everybody sees everybody.

    Args:
        keys: (B, K) bool, True for real tokens; the others (padding) are seen by nobody.
        segments: (B, L) integers for packed rows; a token sees its own segment only. Needs Q = K = L.
        causal: whether a token sees only itself and those before it. Needs Q = K.
    """

    keys: Tensor | None = None
    segments: Tensor | None = None
    causal: bool = False

    @cached_property
    def mask(self) -> Tensor | None:
        """Bool tensor that broadcasts to (B, 1, Q, K), True where a query may look; None where nothing is hidden.

        Padding alone stays (B, 1, 1, K): no (L, L) matrix is built for it. A causal mask alone is left to the kernel.
        """
        mask = None
        if self.keys is not None:
            mask = self.keys[:, None, None, :]
        if self.segments is not None:
            same = (self.segments[:, :, None] == self.segments[:, None, :])[:, None]
            mask = same if mask is None else mask & same
        if self.causal and mask is not None:
            length = mask.shape[-1]
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        return mask

    @property
    def causal_only(self) -> bool:
        """Whether the kernel's own causal option says everything."""
        return self.causal and self.keys is None and self.segments is None


def plain_attention(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
    """The formula, written out; the reference for the other kernels.

    Args:
        q: (B, H, Q, d).
        k: (B, G, K, d).
        v: (B, G, K, d).
        visibility: who may see whom.

    Returns:
        (B, H, Q, d) in the dtype of ``q``. A query that may see nobody gets zeros.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * q.shape[-1] ** -0.5
    mask = visibility.mask
    if visibility.causal_only:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probabilities = scores.softmax(-1).nan_to_num(0.0)
    return probabilities.to(v.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, which picks a fused kernel for the device and dtype.

    Arguments and result are those of `plain_attention`.
    """
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=visibility.mask,
        is_causal=visibility.causal_only,
        enable_gqa=q.shape[1] != k.shape[1],
    )


Kernel = Callable[[Tensor, Tensor, Tensor, Visibility], Tensor]
KERNELS: dict[str, Kernel] = {"plain": plain_attention, "sdpa": sdpa_attention}


def kernel_by_name(name: str) -> Kernel:
    """The attention kernel of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in KERNELS:
        raise ValueError(f"attention kernel {name!r} is unknown; choose one of {', '.join(map(repr, KERNELS))}")
    return KERNELS[name]
