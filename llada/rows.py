"""Rows of tokens: what is padding, where packed segments begin, where a token stands, and which block it is in.

A batch is (B, L) tokens. ``attention_mask`` (B, L) is true for real tokens, the rest is padding. ``segment_ids`` (B, L)
are integers that are constant within a packed segment and change where the next one begins.

Two words for where a token stands:

    column      its index in the row, 0 .. L - 1, padding included
    position    its index from the first real token of its row, or of its packed segment: the field's position ids

Nothing that is computed from positions depends on how a batch was padded.

Shapes: B rows, L columns.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


def segment_starts(segment_ids: Tensor) -> Tensor:
    """The first token of every packed segment, (B, L) bool; column 0 always is one.

    Args:
        segment_ids: (B, L) integers, constant within a segment.
    """
    starts = torch.ones_like(segment_ids, dtype=torch.bool)
    starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return starts


def segment_numbers(segment_ids: Tensor) -> Tensor:
    """Segments counted from 0 in each row, (B, L) int64.

    Args:
        segment_ids: (B, L) integers, constant within a segment.
    """
    return segment_starts(segment_ids).cumsum(1) - 1


def group_sums(values: Tensor, numbers: Tensor) -> Tensor:
    """Sum over each token's group (segment or block) of its row, (B, L) float64.

    Args:
        values: (B, L).
        numbers: (B, L) int64, the group of each token, below L.
    """
    sums = torch.zeros(values.shape, dtype=torch.float64, device=values.device)
    return sums.scatter_add(1, numbers, values.double()).gather(1, numbers)


def left_padding(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Padding in front of each row, in columns, (B, 1) int64.

    Args:
        tokens: (B, ...).
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: no padding.
    """
    if attention_mask is None:
        return torch.zeros(len(tokens), 1, dtype=torch.int64, device=tokens.device)
    return (attention_mask.long().cumsum(1) == 0).sum(1, keepdim=True)


def positions(tokens: Tensor, attention_mask: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
    """Where each token stands in its row or packed segment, (B, L) int64; negative for padding in front of a row.

    Args:
        tokens: (B, L).
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.
        segment_ids: (B, L) integers of packed rows, which have no padding in front; None: a row is one segment.
    """
    columns = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    if segment_ids is None:
        return columns - left_padding(tokens, attention_mask)
    return columns - torch.where(segment_starts(segment_ids), columns, 0).cummax(1).values


def has_context(tokens: Tensor, attention_mask: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
    """Which tokens have a real token before them in their row and segment, (B, L) bool.

    Args:
        tokens: (B, L).
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.
        segment_ids: (B, L) integers of packed rows; None: a row is one segment.
    """
    context = torch.ones_like(tokens, dtype=torch.bool) if segment_ids is None else ~segment_starts(segment_ids)
    context[:, :1] = False
    if attention_mask is not None:
        context[:, 1:] &= attention_mask[:, :-1].bool()
    return context


def block_of(position: Tensor, block_length: int) -> Tensor:
    """The block that a position is in, counted from 0 in its row or segment; padding in front counts to block 0.

    Args:
        position: integers of any shape, see `positions`.
        block_length: positions per block.
    """
    return position.clamp(min=0) // block_length


def block_numbers(
    tokens: Tensor, block_length: int, attention_mask: Tensor | None = None, segment_ids: Tensor | None = None
) -> Tensor:
    """Blocks counted from 0 along each row, (B, L) int64: as `block_of`, but a new segment begins a new number.

    Args:
        tokens: (B, L).
        block_length: positions per block, counted from the first real token of a row or segment.
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.
        segment_ids: (B, L) integers of packed rows; None: a row is one segment.
    """
    block = block_of(positions(tokens, attention_mask, segment_ids), block_length)
    if segment_ids is None:
        return block
    starts = segment_starts(segment_ids)
    starts[:, 1:] |= block[:, 1:] != block[:, :-1]
    return starts.cumsum(1) - 1


def count_before(tokens: Sequence[int], token_ids: Collection[int]) -> int:
    """How many tokens stand before the first one that is among ``token_ids``; all of them if none is.

    Args:
        tokens: token ids of one row.
        token_ids: such as those that end a text.
    """
    return next((index for index, token in enumerate(tokens) if token in token_ids), len(tokens))


def exact_count_weight(count: Tensor, num_counts: Tensor | int, copies: Tensor | int = 1) -> Tensor:
    """The weight of a row in which exactly l tokens are masked, with l uniform over n counts: n / l, float64.

    It makes the sum of the masked tokens' cross-entropies an estimate of the bound (arXiv 2502.09992, equation 6). The
    mean over several copies of the row, each with its own l, has the weight n / (copies l).

    Args:
        count: masked tokens, l, integers of any shape. Nothing is masked where it is 0, and the weight is that of 1.
        num_counts: how many counts there are to draw from, n: the row's maskable tokens.
        copies: rows of which the mean is taken.
    """
    return torch.as_tensor(num_counts, device=count.device).div(copies * count.clamp(min=1).double())


def bit_reversed(numbers: Tensor, below: int) -> Tensor:
    """Numbers whose binary digits are read backwards, as fractions: 0, 1/2, 1/4, 3/4, 1/8, ... for 0, 1, 2, 3, 4, ...

    Args:
        numbers: int64, from 0 to less than ``below``.
        below: at most 2^53.

    Returns:
        float64 in [0, 1), exact.
    """
    fractions = torch.zeros_like(numbers, dtype=torch.float64)
    for bit in range(max(below - 1, 0).bit_length()):
        fractions = fractions + (numbers >> bit & 1).double() / 2.0 ** (bit + 1)
    return fractions


class _Found(NamedTuple):
    """Indices, and the version of the mask that they are of."""

    indices: Tensor
    version: int


_found = WeakTensorKeyDictionary()


def true_indices(mask: Tensor) -> Tensor:
    """Flat indices of the true entries of a mask, (N,) int64, rising; found once per mask.

    On a GPU to find them is to wait for the device, and a step asks several times. They are kept as long as the mask
    lives, and found anew once it has been written to.

    Args:
        mask: bool, any shape.
    """
    if torch.compiler.is_compiling() or mask.is_inference():  # of which no version is counted
        return mask.flatten().nonzero()[:, 0]
    found = _found.get(mask)
    if found is None or found.version != mask._version:
        found = _found[mask] = _Found(mask.flatten().nonzero()[:, 0], mask._version)
    result: Tensor = found.indices
    return result


def chosen(values: Tensor, mask: Tensor) -> Tensor:
    """``values[mask]``, (N,).

    Args:
        values: of the shape of the mask, or of one that expands to it.
        mask: bool.
    """
    return values.expand(mask.shape).reshape(-1).index_select(0, true_indices(mask))


def flat_indices(tokens: Tensor, where: Tensor | None) -> Tensor | None:
    """Indices into the flattened (B * L,) tokens for a choice of positions.

    Args:
        tokens: (B, L).
        where: None: all; a (B, L) bool mask: its N true entries in row-major order; (B, M) int64 columns: those of
            each row.

    Returns:
        (N,) or (B * M,) int64; None for all.
    """
    if where is None:
        return None
    if where.dtype == torch.bool:
        return true_indices(where)
    start = torch.arange(tokens.shape[0], device=tokens.device)[:, None] * tokens.shape[1]
    return (start + where).flatten()


def placed(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros with values at the true entries of a mask, in the mask's shape.

    Args:
        values: (N,).
        mask: bool.
    """
    return values.new_zeros(mask.numel()).index_copy(0, true_indices(mask), values).view(mask.shape)
