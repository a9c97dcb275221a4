"""The layers of a pre-norm Transformer: attention, SwiGLU, short convolution, and the block that joins them.

Shapes: B batch, L length, D width, N rows selected out of B * L, H heads, G key/value heads, d head width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from llada.backbones.attention.kernels import kernel_by_name
from llada.backbones.attention.visibility import Visibility
from llada.backbones.cache import KeyValueCache, Region
from llada.backbones.rotary import Rotation, rotate

Cached = tuple[KeyValueCache, int, Region]
"""A cache, the index of the layer, and where the tokens of a pass stand on the cache's canvas."""


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions.

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
        super().__init__()
        self.head_dim = head_dim
        self.kernel = kernel_by_name(kernel)
        self.q_proj = nn.Linear(width, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(width, num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(width, num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(num_heads * head_dim, width, bias=out_bias)
        self.q_norm = nn.Identity() if qk_norm is None else nn.RMSNorm(head_dim, eps=qk_norm)
        self.k_norm = nn.Identity() if qk_norm is None else nn.RMSNorm(head_dim, eps=qk_norm)

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        visibility: Visibility,
        cached: Cached | None = None,
    ) -> Tensor:
        """What every token gathers from those it sees, before the output projection.

        Args:
            x: (B, L, D), normalised.
            turn: rotation of the positions of ``x``.
            visibility: who may see whom.
            cached: cache, index of this layer, and where the tokens of ``x`` stand on the cache's canvas.

        Returns:
            (B, L, H * d).
        """
        q = self.q_norm(rearrange(self.q_proj(x), "b l (h d) -> b h l d", d=self.head_dim))
        k = self.k_norm(rearrange(self.k_proj(x), "b l (g d) -> b g l d", d=self.head_dim))
        v = rearrange(self.v_proj(x), "b l (g d) -> b g l d", d=self.head_dim)
        q, k = rotate(q, turn), rotate(k, turn)
        if cached is not None:
            cache, layer, region = cached
            k, v = cache.write(layer, k, v, region)
        return rearrange(self.kernel(q, k, v, visibility), "b h l d -> b l (h d)")


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
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ShortConvolution(nn.Module):
    """A residual depthwise convolution over neighbouring positions: x + conv(norm(x)).

    It gives a small model the sight of its neighbours that attention would have to learn first. Not part of LLaDA's own
    architecture.

    Args:
        width: D.
        size: positions in the window, odd; centred, or ending at the token itself if ``causal``.
        causal: whether a token sees only itself and those before it.
        norm_eps: epsilon of the RMSNorm.

    Raises:
        ValueError: if ``size`` is even or less than 1.
    """

    def __init__(self, width: int, size: int, *, causal: bool = False, norm_eps: float = 1e-5) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"the short convolution's size must be odd and positive; got {size}")
        self.offsets = range(1 - size, 1) if causal else range(-(size // 2), size // 2 + 1)
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.taps = nn.Parameter(torch.empty(size, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal taps whose squares sum to 1 on average: the branch starts at the scale of its normalised input."""
        nn.init.normal_(self.taps, std=len(self.offsets) ** -0.5)

    def forward(self, x: Tensor, visibility: Visibility, cached: Cached | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D); padding and other segments contribute nothing.

        With a cache the neighbours outside of the region are those of earlier passes.
        """
        source = self.norm(x)
        if cached is not None:
            return self._on_region(x, source, visibility, *cached)
        if visibility.keys is not None:
            source = source * visibility.keys[..., None]
        result, length = x, x.shape[1]
        for tap, offset in zip(self.taps, self.offsets, strict=True):
            if abs(offset) >= length:
                continue
            low, high = max(0, -offset), length - max(0, offset)
            moved = source[:, low + offset : high + offset] * tap
            if visibility.segments is not None:
                here, there = (visibility.segments[:, low + o : high + o] for o in (0, offset))
                moved = moved * (here == there)[..., None]
            result = result + F.pad(moved, (0, 0, low, length - high))
        return result

    def _on_region(
        self, x: Tensor, source: Tensor, visibility: Visibility, cache: KeyValueCache, layer: int, region: Region
    ) -> Tensor:
        places = torch.arange(cache.length, device=x.device)[region] if isinstance(region, slice) else region
        places = places.expand(x.shape[:2])
        if visibility.keys is not None:
            source = source * visibility.keys.gather(1, places)[..., None]
        canvas = cache.write_neighbours(layer, source, region)
        for tap, offset in zip(self.taps, self.offsets, strict=True):
            there = places + offset
            inside = (there >= 0) & (there < cache.length)
            index = there.clamp(0, cache.length - 1)[..., None].expand_as(x)
            x = x + canvas.gather(1, index) * tap * inside[..., None]
        return x


class Block(nn.Module):
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

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        visibility: Visibility,
        cached: Cached | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D), or to (N, D) where ``select`` gives flat indices into B * L.

        Attention needs every token; what follows it needs only those whose result is wanted.
        """
        if self.convolution is not None:
            x = self.convolution(x, visibility, cached)
        gathered = self.attention(self.attention_norm(x), turn, visibility, cached)
        if select is not None:
            x, gathered = x.flatten(0, 1)[select], gathered.flatten(0, 1)[select]
        x = x + self.attention.o_proj(gathered)
        return x + self.feed_forward(self.feed_forward_norm(x))
