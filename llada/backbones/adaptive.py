"""Layers that are steered by the noise level (adaLN): a shift and a scale after each norm, a gate on each branch.

    c = silu(mlp(sinusoids(sigma))),    [shift, scale, gate] = W c + b    per branch
    x <- x + gate * branch(norm(x) * (1 + scale) + shift)

Shapes: B rows, L tokens of a row, D width, H heads, d head width, N tokens selected out of B * L, C width of the
condition c, R conditions: one per row of the batch (R = B), or one for all of them (R = 1).

Reference: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748, section 3.2.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.layer import Context, Layer
from llada.backbones.layers import RotaryAttention

NUM_SINUSOIDS = 256
LONGEST_WAVE = 10_000.0


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero, so that what it steers starts as if it weren't there."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class NoiseEmbedding(nn.Module):
    """Noise levels as vectors: sinusoids of sigma, then a two-layer perceptron."""

    def __init__(self, cond_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(NUM_SINUSOIDS, cond_width), nn.SiLU(), nn.Linear(cond_width, cond_width))

    def forward(self, sigma: Tensor) -> Tensor:
        """Map (R,) to (R, C)."""
        steps = torch.arange(NUM_SINUSOIDS // 2, device=sigma.device, dtype=torch.float32)
        angles = sigma.float()[:, None] * LONGEST_WAVE ** (-2 * steps / NUM_SINUSOIDS)
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(next(self.mlp.parameters()).dtype))


class FusedAttention(RotaryAttention):
    """Multi-head self-attention with one matrix for queries, keys and values, and no biases.

    Args:
        width: D.
        num_heads: H.
        kernel: name in `llada.backbones.attention.kernels.KERNELS`.
    """

    def __init__(self, width: int, num_heads: int, *, kernel: str = "auto") -> None:
        super().__init__(kernel)
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    @override
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        return q, k, v


class AdaptiveBlock(Layer):
    """One layer: gated attention, then a gated perceptron with tanh-GELU, both behind modulated LayerNorms.

    Args:
        width: D.
        num_heads: H.
        cond_width: C.
        hidden_width: width of the perceptron.
        dropout: probability that an entry of a branch's output is dropped in training.
        kernel: name in `llada.backbones.attention.kernels.KERNELS`.
    """

    def __init__(
        self, width: int, num_heads: int, cond_width: int, hidden_width: int, *, dropout: float, kernel: str
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = FusedAttention(width, num_heads, kernel=kernel)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden_width), nn.GELU(approximate="tanh"), nn.Linear(hidden_width, width)
        )
        self.modulation = ZeroLinear(cond_width, 6 * width)
        self.dropout = nn.Dropout(dropout)

    @property
    @override
    def reads_padding(self) -> bool:
        return False

    def forward(self, x: Tensor, context: Context, select: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D), or to (N, D) where ``select`` gives flat indices into B * L.

        Raises:
            ValueError: if the context has no condition.
        """
        if context.condition is None:
            raise ValueError("an AdaptiveBlock is steered by context.condition, (R, C); got None")
        length = x.shape[1]
        shift, scale, *rest = self.modulation(context.condition).chunk(6, dim=-1)
        normed = modulated_norm(self.attention_norm, x, spread(shift, length), spread(scale, length))
        gathered = self.attention(normed, context)
        if select is not None:
            x, gathered = x.flatten(0, 1)[select], gathered.flatten(0, 1)[select]
        attention_gate, shift, scale, gate = (spread(part, length, select) for part in rest)
        x = x + attention_gate * self.dropout(self.attention.o_proj(gathered))
        normed = modulated_norm(self.feed_forward_norm, x, shift, scale)
        return x + gate * self.dropout(self.feed_forward(normed))


def spread(modulation: Tensor, length: int, select: Tensor | None = None) -> Tensor:
    """Give every token the modulation of its row.

    Args:
        modulation: (R, D).
        length: L.
        select: (N,) flat indices into B * L, or None for all tokens.

    Returns:
        A tensor that broadcasts to (B, L, D), or to (N, D) with ``select``. One that all rows share stays (1, D).
    """
    if len(modulation) == 1:
        return modulation
    return modulation[:, None] if select is None else modulation[select // length]


def modulated_norm(norm: nn.LayerNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm(x) * (1 + scale) + shift``; shared by all rows, the modulation is the norm's own weight and bias."""
    if scale.ndim == 2 and len(scale) == 1:
        # Under autocast the modulation comes in half precision; the norm wants all of its arguments in one.
        scale, shift = scale[0].to(norm.weight.dtype), shift[0].to(norm.weight.dtype)
        return F.layer_norm(x, norm.normalized_shape, norm.weight * (1 + scale), shift, norm.eps)
    return norm(x) * (1 + scale) + shift
