"""Visibility of block-causal models: a token sees its own block and the blocks before it.

    seen(row, query, key) = block(key) <= block(query), and real and in the same segment as in `Visibility`

Shapes: B rows, Q queries, K keys, L tokens of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada import rows
from llada.backbones.attention.halves import block_parts
from llada.backbones.attention.visibility import Rule, Runs, Visibility, indices
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

    @override
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        given = (self.query_blocks, self.key_blocks, self.keys, self.segments)
        rows = max(len(x) for x in given if x is not None)
        return indices(rows, self.query_blocks.shape[1], self.key_blocks.shape[1], self.key_blocks.device)

    @override
    def rule(self) -> Rule:
        of_query, of_key = look_up(self.query_blocks), look_up(self.key_blocks)

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (of_key(row, key) <= of_query(row, query)) & self.shown(row, query, key)

        return seen

    @override
    def parts(self, rows: int) -> tuple[Runs, ...] | None:
        if self.query_blocks is not self.key_blocks:
            return None  # a region of a canvas
        blocks = self.key_blocks.expand(rows, -1)
        given = blocks, self.keys, self.segments
        return self.once(("parts", rows), lambda: block_parts(*given, masks=blocks.device.type == "cpu"))


def look_up(blocks: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """From indices of rows and columns to their blocks, given (1 or B, L): one row stands for all."""
    several = len(blocks) > 1
    return lambda row, column: blocks[row if several else row * 0, column]


def block_causal(
    block_length: int,
    tokens: Tensor,
    keys: Tensor | None = None,
    segments: Tensor | None = None,
    cache: KeyValueCache | None = None,
    region: Region | None = None,
) -> Visibility:
    """Who sees whom in a block-causal model.

    Args:
        block_length: number of tokens in a block, counted from the first real token of a row or of a packed segment.
        tokens: (B, Q) of the pass.
        keys: (B, K) bool, true for real tokens, of the whole canvas; None: all.
        segments: (B, Q) integers of packed rows; None: a row is one segment.
        cache: keys of the canvas; None if the tokens are the canvas.
        region: where the tokens stand on it.
    """
    if cache is None or region is None:
        if block_length >= tokens.shape[1]:
            return Visibility(keys=keys, segments=segments)  # a row of one block
        blocks = token_blocks(block_length, tokens, keys, segments)
        return BlockCausal(keys=keys, segments=segments, query_blocks=blocks, key_blocks=blocks)
    stop = cache.visible(region)
    keys = None if keys is None else keys[:, :stop]
    if isinstance(region, slice) and keys is None:
        first, last = rows.block_of(torch.tensor([region.start, region.stop - 1]), block_length).tolist()
        if first == last:
            return Visibility()  # within one block, all that the cache shows is visible
    blocks = token_blocks(block_length, tokens.new_empty(len(tokens), stop), keys, None)
    if isinstance(region, slice):
        return BlockCausal(keys=keys, query_blocks=blocks[:, region], key_blocks=blocks)
    return BlockCausal(keys=keys, query_blocks=blocks.expand(len(tokens), -1).gather(1, region), key_blocks=blocks)


def token_blocks(block_length: int, tokens: Tensor, keys: Tensor | None, segments: Tensor | None) -> Tensor:
    """Block of each token within its row or packed segment, (1 or B, L) int64: one row where all are alike.

    Padding in front is in block -1, and so sees nobody.

    Args:
        block_length: number of tokens in a block.
        tokens: (B, L).
        keys: (B, L) bool, true for real tokens; None: all.
        segments: (B, L) integers of packed rows; None: a row is one segment.
    """
    if keys is None and segments is None:
        tokens = tokens[:1]
    positions = rows.positions(tokens, keys, segments)
    return rows.block_of(positions, block_length).masked_fill(positions < 0, -1)
