"""Visibility of block-causal models: a token sees its own block and the blocks before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llada.backbones.attention.visibility import Rule, Visibility
from llada.backbones.cache import KeyValueCache, Region


@dataclass(frozen=True, kw_only=True)
class BlockCausal(Visibility):
    """A `Visibility` that also hides later blocks.

    Args:
        query_blocks: (1 or B, Q) integers, block of each query.
        key_blocks: (1 or B, K) integers, block of each key.
    """

    query_blocks: Tensor
    key_blocks: Tensor

    @property
    def mask(self) -> Tensor:
        """See `Visibility.mask`."""
        return self.once("mask", self._seen)

    def _seen(self) -> Tensor:
        seen = (self.key_blocks[:, None, :] <= self.query_blocks[:, :, None])[:, None]
        if self.keys is not None:
            seen = seen & self.keys[:, None, None, :]
        if self.segments is not None:
            seen = seen & (self.segments[:, :, None] == self.segments[:, None, :])[:, None]
        return seen

    def rule(self) -> Rule:
        """See `Visibility.rule`."""
        query_blocks, key_blocks = self.query_blocks, self.key_blocks
        queries_differ, keys_differ = len(query_blocks) > 1, len(key_blocks) > 1

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            of_query = query_blocks[row if queries_differ else row * 0, query]
            result = key_blocks[row if keys_differ else row * 0, key] <= of_query
            if self.keys is not None:
                result = result & self.keys[row, key]
            if self.segments is not None:
                result = result & (self.segments[row, query] == self.segments[row, key])
            return result

        return seen


def block_causal(
    length: int,
    positions: Tensor,
    keys: Tensor | None,
    segments: Tensor | None,
    cache: KeyValueCache | None,
    region: Region | None,
) -> Visibility:
    """Who sees whom in a block-causal model.

    Args:
        length: of a block, counted from the first real token of a row, or of a packed segment.
        positions: (Q,) or (B, Q) of the queries.
        keys: (B, K) bool, true for real tokens, of the whole canvas; or None.
        segments: (B, Q) of packed rows, or None.
        cache: keys of the canvas, or None if the queries are the canvas.
        region: where the queries stand on it.
    """
    queries = positions[None] if positions.ndim == 1 else positions
    columns = queries
    if cache is not None and region is not None:
        stop = cache.visible(region)
        keys = None if keys is None else keys[:, :stop]
        if isinstance(region, slice) and keys is None and region.start // length == (region.stop - 1) // length:
            return Visibility()  # within one block, all that the cache shows is visible
        columns = torch.arange(stop, device=positions.device)[None]
    if keys is not None and segments is None:
        padding = (keys.long().cumsum(1) == 0).sum(1, keepdim=True)
        queries, columns = queries - padding, columns - padding
    return BlockCausal(keys=keys, segments=segments, query_blocks=queries // length, key_blocks=columns // length)
