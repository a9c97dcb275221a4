"""All blocks of a block-causal model in one pass: a noisy copy of the row beside a clean one.

In training, block b is noisy for itself and clean for the blocks after it, so a single row can't hold it. Two copies
can, of 2 L tokens with the positions 0..L-1 twice. A noisy token sees its own noisy block and the clean blocks before
it; a clean token sees clean tokens of its own block and of those before. So the noisy half says of every block what a
pass over (clean blocks before it, the noisy block) would say, for twice the tokens instead of a pass per block.

Reference: Arriola et al., "Block Diffusion", arXiv 2503.09573.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llada.backbones.attention.visibility import Rule, Visibility
from llada.backbones.inputs import check_inputs, token_positions
from llada.backbones.layers import Block, ShortConvolution
from llada.backbones.rotary import Rotation, rotation

if TYPE_CHECKING:
    from llada.backbones.transformer import BidirectionalTransformer


@dataclass(frozen=True, kw_only=True)
class TwoCopies(Visibility):
    """Who sees whom among L noisy tokens and, behind them, L clean ones.

    ``keys`` and ``segments`` are those of one copy, (B, L).

    Args:
        blocks: (1 or B, L) integers, block of each token.
    """

    blocks: Tensor

    @property
    def mask(self) -> Tensor:
        """(1 or B, 1, 2 L, 2 L) bool; see `Visibility.mask`."""
        return self.once("mask", self._seen)

    def rule(self) -> Rule:
        """See `Visibility.rule`."""
        length, several = self.blocks.shape[1], len(self.blocks) > 1

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            place, other = query % length, key % length
            of_query, of_key = (self.blocks[row if several else row * 0, p] for p in (place, other))
            own, earlier = of_query == of_key, of_query > of_key
            clean_query, clean_key = query >= length, key >= length
            result = (clean_key & earlier) | (own & (clean_query == clean_key))
            if self.keys is not None:
                result = result & self.keys[row, other]
            if self.segments is not None:
                result = result & (self.segments[row, place] == self.segments[row, other])
            return result

        return seen

    def _seen(self) -> Tensor:
        own = self.blocks[:, :, None] == self.blocks[:, None, :]
        earlier = self.blocks[:, :, None] > self.blocks[:, None, :]
        noisy = torch.cat([own, earlier], dim=2)
        clean = torch.cat([torch.zeros_like(own), own | earlier], dim=2)
        seen = torch.cat([noisy, clean], dim=1)[:, None]
        if self.keys is not None:
            seen = seen & self.keys.repeat(1, 2)[:, None, None, :]
        if self.segments is not None:
            same = self.segments[:, :, None] == self.segments[:, None, :]
            seen = seen & same.repeat(1, 2, 2)[:, None]
        return seen


def two_copy_hidden(
    backbone: "BidirectionalTransformer",
    tokens: Tensor,
    clean: Tensor,
    attention_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    select: Tensor | None = None,
) -> Tensor:
    """What the backbone's `hidden` says of noisy tokens that see their own block, and clean blocks before it.

    Args:
        backbone: with a ``block_length``.
        tokens: (B, L) int64, noisy.
        clean: (B, L) int64.
        attention_mask: (B, L) bool or 0/1, true for real tokens.
        segment_ids: (B, L) integers for packed rows.
        select: (N,) flat indices into B * L.

    Returns:
        (B, L, D), or (N, D) with ``select``.

    Raises:
        ValueError: if the backbone has no blocks, or reads its outputs one position to the left.
    """
    if backbone.block_length is None or backbone.shift:
        raise ValueError(
            "a clean copy needs a backbone with block_length and without shift; "
            f"got block_length={backbone.block_length}, shift={backbone.shift}"
        )
    length = tokens.shape[1]
    check_inputs(tokens, segment_ids, None, None, vocab_size=backbone.vocab_size, max_length=backbone.max_length)
    positions = token_positions(tokens, segment_ids, None)
    turn = rotation(
        torch.cat([positions] * 2, -1), backbone.head_dim, backbone.rope_theta, backbone.embedding.weight.dtype
    )
    keys = None if attention_mask is None else attention_mask.bool()
    visibility = TwoCopies(
        keys=keys, segments=segment_ids, blocks=_blocks(backbone.block_length, positions, keys, segment_ids)
    )
    wanted = torch.arange(tokens.numel(), device=tokens.device) if select is None else select
    wanted = wanted + wanted // length * length  # in rows of 2 L
    x = backbone.embedding(torch.cat([tokens, clean], dim=1))
    for layer, block in enumerate(backbone.blocks):
        assert isinstance(block, Block)
        x = _layer(block, x, turn, visibility, wanted if layer == backbone.num_layers - 1 else None)
    x = backbone.final_norm(x)
    return x.view(*tokens.shape, -1) if select is None else x


def _blocks(length: int, positions: Tensor, keys: Tensor | None, segments: Tensor | None) -> Tensor:
    """Block of each token, counted from the first real token of its row or segment, (1 or B, L)."""
    places = positions[None] if positions.ndim == 1 else positions
    if keys is not None and segments is None:
        places = places - (keys.long().cumsum(1) == 0).sum(1, keepdim=True)
    return places // length


def _layer(block: Block, x: Tensor, turn: Rotation, visibility: TwoCopies, select: Tensor | None) -> Tensor:
    """`Block.forward`, but for the convolution's neighbours."""
    if block.convolution is not None:
        x = _convolve(block.convolution, x, visibility)
    gathered = block.attention(block.attention_norm(x), turn, visibility)
    if select is not None:
        x, gathered = x.flatten(0, 1)[select], gathered.flatten(0, 1)[select]
    x = x + block.attention.o_proj(gathered)
    return x + block.feed_forward(block.feed_forward_norm(x))


def _convolve(convolution: ShortConvolution, x: Tensor, visibility: TwoCopies) -> Tensor:
    """A causal short convolution: a noisy token's neighbours are noisy in its own block, and clean before it."""
    source = convolution.norm(x)
    if visibility.keys is not None:
        source = source * visibility.keys.repeat(1, 2)[..., None]
    noisy, clean = source.chunk(2, dim=1)
    for tap, offset in zip(convolution.taps, convolution.offsets, strict=True):
        # Filled up in front with a block, or segment, that no token is in.
        own = _moved(visibility.blocks, offset, -1) == visibility.blocks
        neighbours = torch.cat(
            [_moved(noisy, offset).where(own[..., None], _moved(clean, offset)), _moved(clean, offset)], 1
        )
        if visibility.segments is not None:
            same = _moved(visibility.segments, offset, -1) == visibility.segments
            neighbours = neighbours * same.repeat(1, 2)[..., None]
        x = x + neighbours * tap
    return x


def _moved(value: Tensor, offset: int, fill: int = 0) -> Tensor:
    """The entry ``-offset`` places earlier along dimension 1, for offsets of 0 or less."""
    if offset == 0:
        return value
    kept = value[:, :offset]
    return torch.cat([value[:, offset:].new_full(value[:, offset:].shape, fill), kept], dim=1)
