"""A short depthwise convolution over neighbouring tokens.

    x_i + sum_o taps_o * norm(x)_{i + o},    o = -(n // 2) .. n // 2, or 1 - n .. 0 if causal

Where a token's neighbours are found depends on the pass: in the row itself, in a cache of the canvas, or in a clean
copy of the row (`llada.backbones.two_copy`). That is what `Neighbours` says; the convolution is the same for all.

Shapes: B rows, L tokens of a row, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.cache import Cached


class Neighbours(ABC):
    """Where the tokens beside each token are found."""

    @abstractmethod
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        """How to look up the neighbours' vectors.

        Args:
            source: (B, L, D) a vector of every token.

        Returns:
            A function from an offset o to (B, L, D): for every token the vector of the token o columns to its right.
            Zero where there is none, or where it is padding or belongs to another segment.
        """

    def on(self, cached: Cached, keys: Tensor | None) -> "Neighbours":
        """Where they are found in a pass over a part of a cached canvas.

        Args:
            cached: the layer's place in the cache.
            keys: (B, L) bool, true for real tokens of the canvas; None: all.
        """
        return CachedNeighbours(cached, keys)


@dataclass(frozen=True)
class RowNeighbours(Neighbours):
    """Neighbours in the row itself.

    Args:
        keys: (B, L) bool, true for real tokens; None: all.
        segments: (B, L) integers of packed rows; None: a row is one segment.
    """

    keys: Tensor | None = None
    segments: Tensor | None = None

    @override
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        if self.keys is not None:
            source = source * self.keys[..., None]

        def at(offset: int) -> Tensor:
            found = moved(source, offset)
            if self.segments is None:
                return found
            return found * (moved(self.segments, offset) == self.segments)[..., None]

        return at


@dataclass(frozen=True)
class CachedNeighbours(Neighbours):
    """Neighbours on a cached canvas: those outside of the region are the ones of earlier passes.

    Args:
        cached: the layer's place in the cache.
        keys: (B, L) bool, true for real tokens of the canvas; None: all.
    """

    cached: Cached
    keys: Tensor | None = None

    @override
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        columns = self.cached.columns(len(source), source.device)
        if self.keys is not None:
            source = source * self.keys.gather(1, columns)[..., None]
        canvas = self.cached.write_neighbours(source)
        length = canvas.shape[1]

        def at(offset: int) -> Tensor:
            there = columns + offset
            inside = (there >= 0) & (there < length)
            index = there.clamp(0, length - 1)[..., None].expand_as(source)
            return canvas.gather(1, index) * inside[..., None]

        return at


class ShortConvolution(nn.Module):
    """A residual depthwise convolution over neighbouring tokens: x + conv(norm(x)).

    It shows a small model the neighbours that attention would have to learn to find first. LLaDA's own architecture
    doesn't have it.

    Args:
        width: D.
        size: number of tokens in the window, odd; centred, or ending at the token itself if ``causal``.
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

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        """Map (B, L, D) to (B, L, D).

        Args:
            x: (B, L, D).
            neighbours: where the tokens beside each token are found.
        """
        at = neighbours.of(self.norm(x))
        for tap, offset in zip(self.taps, self.offsets, strict=True):
            x = x + at(offset) * tap
        return x


def moved(values: Tensor, offset: int) -> Tensor:
    """For every column the entry ``offset`` columns to its right, and zero where there is none.

    Args:
        values: (B, L) or (B, L, D).
        offset: negative for entries to the left.
    """
    if offset == 0:
        return values
    length = values.shape[1]
    if abs(offset) >= length:
        return torch.zeros_like(values)
    kept = values[:, max(0, offset) : length + min(0, offset)]
    return F.pad(kept, (0, 0) * (values.ndim - 2) + (max(0, -offset), max(0, offset)))
