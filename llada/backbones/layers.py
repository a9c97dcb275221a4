"""The layers of a pre-norm Transformer: attention, feed-forward, and the block that joins them.

    x <- x + attention(norm(x)),    x <- x + feed_forward(norm(x))

Shapes: B rows, L tokens of a row, D width, N rows selected out of B * L, H heads, G key/value heads, d head width.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.attention.kernels import kernel_by_name
from llada.backbones.convolution import ShortConvolution
from llada.backbones.layer import Context, Layer
from llada.backbones.rotary import rotate


class RotaryAttention(nn.Module, ABC):
    """Self-attention with rotary positions; a subclass makes queries, keys and values, and has the ``o_proj`` behind.

    Args:
        kernel: name in `llada.backbones.attention.kernels.KERNELS`.
    """

    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel_by_name(kernel)

    @abstractmethod
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, d), keys and values (B, G, L, d) of normalised tokens (B, L, D), before rotation."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """What every token gathers from those it sees, before the output projection.

        Args:
            x: (B, L, D), normalised.
            context: rotation, visibility and cache.

        Returns:
            (B, L, H * d).
        """
        q, k, v = self.heads(x)
        q, k = rotate(q, context.rotation), rotate(k, context.rotation)
        if context.cached is not None:
            k, v = context.cached.write(k, v)
        return self.kernel(q, k, v, context.visibility).transpose(1, 2).flatten(2)


class Attention(RotaryAttention):
    """Grouped-query self-attention.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: G, a divisor of H; G = H is multi-head, G = 1 multi-query attention.
        head_dim: d.
        qkv_bias: whether queries, keys and values have biases (Dream and Qwen2 do).
        out_bias: whether the output projection has one.
        qk_norm: epsilon of an RMSNorm over each head of queries and keys before rotation; None for no norm.
        kernel: name in `llada.backbones.attention.kernels.KERNELS`.

    Reference:
        Ainslie et al., "GQA", arXiv 2305.13245.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: float | None = None,
        kernel: str = "auto",
    ) -> None:
        super().__init__(kernel)
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(width, num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(width, num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(num_heads * head_dim, width, bias=out_bias)
        self.q_norm = nn.Identity() if qk_norm is None else nn.RMSNorm(head_dim, eps=qk_norm)
        self.k_norm = nn.Identity() if qk_norm is None else nn.RMSNorm(head_dim, eps=qk_norm)

    @override
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (*x.shape[:2], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).reshape(shape).transpose(1, 2) for project in projections)
        return self.q_norm(q), self.k_norm(k), v


class TiedHead(nn.Module):
    """A projection to the vocabulary that shares the embedding's matrix, with a bias of its own if asked for."""

    is_linear = True
    """Its ``forward`` does nothing but multiply and add, so losses may work on the matrix itself."""

    def __init__(self, embedding: nn.Embedding, bias: bool = False) -> None:
        super().__init__()
        self.tie(embedding)
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if bias else None

    def tie(self, embedding: nn.Embedding) -> None:
        """Share the matrix (again): ``to_empty`` gives every name a tensor of its own."""
        self.weight = embedding.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., D) to (..., V)."""
        return nn.functional.linear(hidden, self.weight, self.bias)


class SwiGLU(nn.Module):
    """The gated feed-forward layer ``down(silu(gate x) * up x)``.

    Reference:
        Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202, equation 6.
    """

    def __init__(self, width: int, hidden_width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=bias)
        self.up_proj = nn.Linear(width, hidden_width, bias=bias)
        self.down_proj = nn.Linear(hidden_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        gate, up = F.silu(self.gate_proj(x)), self.up_proj(x)
        return self.down_proj(gate * up if torch.is_grad_enabled() else gate.mul_(up))


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``, (..., D), in the dtype of the products that read it.

    Autocast computes norms in float32, and would cast the result once for each of these products, and keep each copy.
    """
    x, device = norm(x), x.device.type
    if x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


class Block(Layer):
    """One pre-norm layer: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        width: D.
        attention: gathers (B, L, H * d) from normalised tokens; owns the output projection ``o_proj``.
        feed_forward: (..., D) -> (..., D).
        norm_eps: epsilon of both RMSNorms.
        convolution: applied in front of the attention, or None.
    """

    def __init__(
        self,
        width: int,
        attention: Attention,
        feed_forward: nn.Module,
        *,
        norm_eps: float,
        convolution: ShortConvolution | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=norm_eps)
        self.convolution = convolution
        self.attention = attention
        self.feed_forward_norm = nn.RMSNorm(width, eps=norm_eps)
        self.feed_forward = feed_forward

    @property
    @override
    def reads_padding(self) -> bool:
        return self.convolution is not None  # which looks across it

    @property
    @override
    def partial_updates(self) -> bool:
        return self.convolution is None

    def forward(self, x: Tensor, context: Context, select: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D), or to (N, D) where ``select`` gives flat indices into B * L."""
        if self.convolution is not None:
            x = self.convolution(x, context.neighbours)
        attended = self.attend(x, context, select)
        x = (x if select is None else x.flatten(0, 1)[select]) + attended
        return x + self.feed(x)

    def attend(self, x: Tensor, context: Context, select: Tensor | None = None) -> Tensor:
        """What attention adds to the tokens, (B, L, D), or (N, D) with ``select``."""
        gathered = self.attention(normalised(self.attention_norm, x), context)
        return self.attention.o_proj(gathered if select is None else gathered.flatten(0, 1)[select])

    def feed(self, x: Tensor) -> Tensor:
        """What the feed-forward layer adds to the tokens, (..., D)."""
        return self.feed_forward(normalised(self.feed_forward_norm, x))

    def values(self, x: Tensor) -> Tensor:
        """The values of tokens (B, L, D) as attention's keys carry them, (B, L, G * d)."""
        return self.attention.v_proj(normalised(self.attention_norm, x))
