"""All blocks of a block-causal model in one pass: a noisy copy of the row beside a clean one.

In training, block b is noisy for itself and clean for the blocks after it, so a single row can't hold it. Two copies
can, of 2 L tokens with the positions 0 .. L-1 twice. With b(i) the block of token i, a query sees a key if the key is

    noisy:  the query is noisy, too, and b(query) = b(key)
    clean:  b(query) > b(key), or the query is clean, too, and b(query) = b(key)

So the noisy half says of every block what a pass over (clean blocks before it, the noisy block) would say, for twice
the tokens instead of a pass per block. With ``shift`` the output left of a token predicts it; for the first token of a
block that is the last one of the block before, which is clean then, and so the clean copy's. With blocks of one token
that is the autoregressive model.

In a causal backbone a key must also stand at the query's position or before it, in either copy. The clean copy then is
the autoregressive model whatever the blocks, and its outputs may be asked for as well.

Reference: Arriola et al., "Block Diffusion", arXiv 2503.09573; for causal backbones Yu et al., I-DLM, arXiv
2604.11035.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada import rows
from llada.backbones.attention.block_causal import look_up, token_blocks
from llada.backbones.attention.halves import block_parts
from llada.backbones.attention.visibility import Rule, Runs, Visibility, indices
from llada.backbones.body import Body
from llada.backbones.convolution import Neighbours, moved
from llada.backbones.inputs import check_inputs, rotary_positions


@dataclass(frozen=True, kw_only=True)
class TwoCopies(Visibility):
    """Who sees whom among L noisy tokens and, behind them, L clean ones.

    ``keys`` and ``segments`` are those of one copy, (B, L).

    Args:
        blocks: (1 or B, L) integers, block of each token.
        ordered: whether no token sees a later one.
    """

    blocks: Tensor
    ordered: bool = False

    @override
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        given = (self.blocks, self.keys, self.segments)
        number, both = max(len(x) for x in given if x is not None), 2 * self.blocks.shape[1]
        return indices(number, both, both, self.blocks.device)

    @override
    def rule(self) -> Rule:
        length, block = self.blocks.shape[1], look_up(self.blocks)

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            of_query, of_key = block(row, query % length), block(row, key % length)
            clean_query, clean_key = query >= length, key >= length
            result = (clean_key & (of_query > of_key)) | ((of_query == of_key) & (clean_query == clean_key))
            if self.ordered:
                result = result & (key % length <= query % length)
            return result & self.shown(row, query % length, key % length)

        return seen

    @override
    def parts(self, rows: int) -> tuple[Runs, ...] | None:
        if self.ordered:
            return None
        blocks = self.blocks.expand(rows, -1)
        given = blocks, self.keys, self.segments
        masks = blocks.device.type == "cpu"
        return self.once(("parts", rows), lambda: block_parts(*given, two_copies=True, masks=masks))


@dataclass(frozen=True)
class CopiedNeighbours(Neighbours):
    """Neighbours in two copies: those of a noisy token are noisy in its own block, and clean before it.

    Args:
        visibility: who sees whom.
    """

    visibility: TwoCopies

    @override
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        blocks, segments, keys = self.visibility.blocks, self.visibility.segments, self.visibility.keys
        if keys is not None:
            source = source * keys.repeat(1, 2)[..., None]
        noisy, clean = source.chunk(2, dim=1)

        def at(offset: int) -> Tensor:
            own, found = moved(blocks, offset) == blocks, moved(clean, offset)
            both = torch.cat([moved(noisy, offset).where(own[..., None], found), found], dim=1)
            if segments is None:
                return both
            return both * (moved(segments, offset) == segments).repeat(1, 2)[..., None]

        return at


def two_copy_hidden(
    body: Body,
    tokens: Tensor,
    clean: Tensor,
    attention_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    select: Tensor | None = None,
    both_copies: bool = False,
) -> Tensor:
    """Hidden states of noisy tokens that see their own block, and the clean blocks before it.

    Where a block holds the whole row, the clean copy isn't computed unless it is asked for.

    Args:
        body: the network, with a ``block_length``.
        tokens: (B, L) int64, noisy.
        clean: (B, L) int64.
        attention_mask: (B, L) bool or 0/1, true for real tokens.
        segment_ids: (B, L) integers for packed rows.
        select: (N,) flat indices into B * L; with ``both_copies`` into B * 2 L, the clean copy behind the noisy one.
        both_copies: whether outputs of the clean copy are wanted, too; for causal backbones with shifted outputs.

    Returns:
        (B, L, D), or (B, 2 L, D) with ``both_copies``; (N, D) with ``select``.

    Raises:
        ValueError: if the network has no blocks, or the clean copy's outputs would be about tokens that it sees.
    """
    if body.block_length is None:
        raise ValueError("a clean copy needs a backbone with block_length, such as block_length=32; got None")
    if both_copies and not (body.causal and body.shift):
        raise ValueError(
            "the clean copy sees the tokens that it would be asked about; build the backbone with causal=True and "
            f"shift=True; got causal={body.causal}, shift={body.shift}"
        )
    length = tokens.shape[1]
    if body.block_length >= length and not both_copies:  # one block, which no clean one precedes
        return Body.hidden(body, tokens, attention_mask=attention_mask, segment_ids=segment_ids, select=select)
    check_inputs(tokens, segment_ids, None, None, vocab_size=body.vocab_size, max_length=body.max_length)
    keys = None if attention_mask is None else attention_mask.bool()
    blocks = token_blocks(body.block_length, tokens, keys, segment_ids)
    visibility = TwoCopies(keys=keys, segments=segment_ids, blocks=blocks, ordered=body.causal)
    copies = 2 if both_copies else 1
    wanted = torch.arange(copies * tokens.numel(), device=tokens.device) if select is None else select
    row, column = wanted // (copies * length), wanted % (copies * length)
    where = row * 2 * length + column
    if body.shift:
        own = row * length + column % length  # in one copy
        left = rows.has_context(tokens, keys, segment_ids).flatten()[own].long()
        block = blocks.expand(tokens.shape).flatten()
        where = where - left + ((block[own - left] != block[own]) & (column < length)) * length
    x = body.run(
        torch.cat([tokens, clean], dim=1),
        torch.cat([rotary_positions(tokens, segment_ids, None)] * 2, dim=-1),
        visibility,
        where,
        neighbours=CopiedNeighbours(visibility),
    )
    return x.view(len(tokens), copies * length, -1) if select is None else x
