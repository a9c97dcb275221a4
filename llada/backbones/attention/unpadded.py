"""Padding left out of a whole forward pass: the real tokens of all rows stand in one packed row.

They are packed once, before the first layer, and put back once, behind the last, so that no layer computes padding and
attention sees runs of real tokens instead of a mask.

Shapes: B rows, L tokens of a row, N real tokens of the batch, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llada.backbones.attention.visibility import Visibility
from llada.backbones.inputs import rotary_positions
from llada.rows import segment_starts


@dataclass(frozen=True)
class Unpadded:
    """A batch without its padding.

    Args:
        real: (B, L) bool, true for real tokens.
        index: (N,) int64 flat indices of the real tokens into B * L.
        tokens: (1, N) int64.
        positions: (1, N) int64, rotary positions.
        visibility: visibility in the packed row: every row, or packed segment of a row, sees itself.
    """

    real: Tensor
    index: Tensor
    tokens: Tensor
    positions: Tensor
    visibility: Visibility

    def packed_index(self, select: Tensor | None) -> Tensor | None:
        """Columns in the packed row of the tokens at flat indices (M,) into B * L; an arbitrary one for padding."""
        if select is None:
            return None
        return (self.real.flatten().cumsum(0) - 1)[select].clamp(min=0)

    def restored(self, hidden: Tensor, select: Tensor | None) -> Tensor:
        """Results as the padded batch has them, zeros for padding.

        Args:
            hidden: (1, N, D), or (M, D) at the `packed_index` of ``select``.
            select: (M,) flat indices into B * L, or None.

        Returns:
            (B, L, D), or (M, D).
        """
        if select is not None:
            return hidden.where(self.real.flatten()[select, None], 0.0)
        padded = hidden.new_zeros(self.real.numel(), hidden.shape[-1])
        return padded.index_copy(0, self.index, hidden.flatten(0, -2)).view(*self.real.shape, -1)


def unpadded(tokens: Tensor, real: Tensor, segment_ids: Tensor | None, *, causal: bool = False) -> Unpadded | None:
    """The batch without its padding; None if it has none, or nothing else.

    Args:
        tokens: (B, L) int64.
        real: (B, L) bool, true for real tokens.
        segment_ids: (B, L) integers for packed rows, or None.
        causal: whether a token sees only itself and those before it.
    """
    index = real.flatten().nonzero()[:, 0]
    if len(index) in (0, real.numel()):
        return None
    starts = torch.zeros_like(real) if segment_ids is None else segment_starts(segment_ids)
    starts[:, 0] = True
    run = starts.flatten().cumsum(0).view(tokens.shape)
    positions = rotary_positions(tokens, segment_ids, None).expand(tokens.shape)
    tokens, positions, run = (x.flatten()[index][None] for x in (tokens, positions, run))
    visibility = Visibility(segments=run, causal=causal, longest=real.shape[1])
    return Unpadded(real, index, tokens, positions, visibility)
