"""Rotary position embedding in the half-split layout: dimension i is rotated together with dimension i + d/2.

    (a, b) -> (a cos - b sin, b cos + a sin),  angle = position * theta ** (-2 i / d)

Reference: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864, equation 34.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of a set of positions, each (1 or B, 1, L, d/2) float32, or float64 for float64 models."""

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype = torch.float32) -> Rotation:
    """The rotation of each position.

    Args:
        positions: (L,) or (B, L) integers.
        head_dim: d, even.
        theta: base of the wavelengths.
        dtype: dtype of the model; the angles are float32 at least.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=dtype) / head_dim
    angles = positions.to(dtype)[..., None] * theta**-exponents
    angles = angles[None, None] if positions.ndim == 1 else angles[:, None]
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys, (B, H, L, d); computed in the rotation's dtype, returned in that of ``x``."""
    a, b = x.to(by.cos.dtype).chunk(2, dim=-1)
    return torch.cat((a * by.cos - b * by.sin, b * by.cos + a * by.sin), dim=-1).to(x.dtype)
