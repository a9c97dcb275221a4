"""Rotary position embedding in the half-split layout: dimension i is rotated together with dimension i + r/2.

    (a, b) -> (a cos - b sin, b cos + a sin),  angle = position * theta ** (-2 i / r)

The first r dimensions of a head are rotated, mostly all of them; the others pass as they are.

Reference: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864, equation 34.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Of a set of positions, each (1 or B, 1, L, r) float32, or float64 for float64 models.

    Attributes:
        cos: cosines, those of both halves.
        sin: sines, negative in the first half: what the other half of a pair counts.
    """

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, rotary_dim: int, theta: float, dtype: torch.dtype = torch.float32) -> Rotation:
    """The rotation of each position.

    Args:
        positions: (L,) or (B, L) integers.
        rotary_dim: r, even.
        theta: base of the wavelengths.
        dtype: dtype of the model; the angles are float32 at least.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=dtype) / rotary_dim
    angles = positions.to(dtype)[..., None] * theta**-exponents
    angles = angles[None, None] if positions.ndim == 1 else angles[:, None]
    cos, sin = angles.cos(), angles.sin()
    return Rotation(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys, (B, H, L, d); computed in the rotation's dtype, returned in that of ``x``."""
    size = by.cos.shape[-1]
    turned, rest = (x, None) if size == x.shape[-1] else x.split((size, x.shape[-1] - size), dim=-1)
    turned = turned.to(by.cos.dtype)
    # Few operations, two of them in place: of the small passes of decoding each one counts.
    others = turned.roll(size // 2, -1).mul_(by.sin)
    rotated = (turned * by.cos).add_(others).to(x.dtype)
    return rotated if rest is None else torch.cat((rotated, rest), dim=-1)
