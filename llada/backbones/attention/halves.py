"""Block-structured attention as a union of runs: a query's own block, and the blocks before it in halves of halves.

Write the numbers of two blocks of a segment in binary. If b' < b, there is one highest bit in which they differ; it is
set in b and clear in b', and all bits above it are equal. So for each bit l the queries with the bit set see all keys
with the bit clear whose higher bits are theirs, and over all bits every earlier block is seen exactly once:

    part l:   keys with b' >> l = 2 m   are seen by   queries with b >> l = 2 m + 1,       for all m
    part own: keys with b' = b

In a part, all tokens of a run see all tokens of another: no mask, in log2(blocks) + 1 parts instead of a matrix.

Where a kernel takes a mask, as that on the CPU does, the own block and the lowest bits are one part with a small one:
runs of so many blocks that they hold `LEAF` tokens, in which the visibility's rule says who sees whom.

Shapes: B rows, L tokens of a row of one copy.
"""

from dataclasses import replace

import torch
from torch import Tensor

from llada import rows
from llada.backbones.attention.visibility import Runs

LEAF = 64
"""Tokens of a run with a mask. On a CPU 16, 32 and 64 took the same time within the noise; more means fewer parts."""


def block_parts(
    blocks: Tensor,
    keys: Tensor | None = None,
    segments: Tensor | None = None,
    *,
    two_copies: bool = False,
    masks: bool = False,
) -> tuple[Runs, ...]:
    """What a query of a block-causal row sees, as disjoint parts; padding is neither query nor key.

    Args:
        blocks: (B, L) integers, block of each token within its row or segment; -1 for padding in front.
        keys: (B, L) bool, true for real tokens; None: all.
        segments: (B, L) integers of packed rows; None: a row is one segment.
        two_copies: whether a row is a noisy copy with the clean one behind it, so that earlier blocks are clean, and
            flat indices count into B * 2 L.
        masks: whether the first part may need a mask.
    """
    length = blocks.shape[1]
    real = blocks >= 0 if keys is None else keys & (blocks >= 0)
    token = real.flatten().nonzero()[:, 0]
    row, block = token // length, blocks.flatten()[token]
    segment = row if segments is None else row * length + rows.segment_numbers(segments).flatten()[token]
    clean = token + row * length + length if two_copies else token
    queries = torch.cat([token + row * length, clean]) if two_copies else token
    copies = 2 if two_copies else 1
    leaf = _leaf(segment * length + block) if masks else 1
    own = torch.cat([segment * length + block // leaf] * copies)
    if two_copies and leaf == 1:
        own = own * 2 + (torch.arange(len(own), device=own.device) >= len(block))  # a block of each copy for itself
    parts = [replace(joined(queries, own, queries, own), masked=leaf > 1)]
    first, stop = leaf.bit_length() - 1, int(block.max()).bit_length() if len(block) else 0
    for level in range(first, stop):
        half = block >> level
        pair, later = segment * length + half // 2, half % 2 == 1
        asked = torch.cat([later] * copies)
        parts.append(joined(queries[asked], torch.cat([pair] * copies)[asked], clean[~later], pair[~later]))
    return tuple(parts)


def _leaf(number: Tensor) -> int:
    """How many blocks of these numbers hold `LEAF` tokens, a power of two."""
    longest = int(number.unique(return_counts=True)[1].max()) if len(number) else 1
    return 1 << max(LEAF // longest, 1).bit_length() - 1


def joined(queries: Tensor, of_query: Tensor, keys: Tensor, of_key: Tensor) -> Runs:
    """Runs of the queries and keys that have the same number; those without a partner are left out.

    Args:
        queries: (N,) flat indices.
        of_query: (N,) integers, the run of each.
        keys: (M,) flat indices.
        of_key: (M,) integers, the run of each.
    """
    asked, answered = torch.isin(of_query, of_key), torch.isin(of_key, of_query)
    queries, query_bounds, longest_query = _sorted(queries[asked], of_query[asked])
    keys, key_bounds, longest_key = _sorted(keys[answered], of_key[answered])
    return Runs(queries, query_bounds, longest_query, keys, key_bounds, longest_key)


def _sorted(index: Tensor, number: Tensor) -> tuple[Tensor, Tensor, int]:
    """The indices in the order of their runs, where the runs begin and end, and the longest one's length."""
    number, order = number.sort(stable=True)
    lengths = number.unique_consecutive(return_counts=True)[1]
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
    return index[order], bounds, int(lengths.max()) if len(lengths) else 0
