"""A second opinion on tokens that stand already: masks beside the canvas, each in the place of one token.

A pass over L tokens of a canvas and, behind them, S shadows. Shadow j stands at the position of column c_j, and

    seen(canvas, key) = the key is on the canvas
    seen(shadow j, key) = the key is a shadow, or it is on the canvas and isn't column c_j

so the canvas gets the results that it has alone, and the output of a shadow says what the model would write into its
column without being told what stands there. (It isn't told directly: the other tokens have been.)

Reference: Hong et al., "Wide-In, Narrow-Out", arXiv 2507.18578, section 3.2; the released ``decoding_wino``.

Shapes: B rows, L tokens of a canvas, S shadows of a row, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.visibility import Rule, Visibility, indices
from llada.backbones.body import Body
from llada.backbones.convolution import Neighbours, moved
from llada.backbones.inputs import check_inputs


@dataclass(frozen=True, kw_only=True)
class Shadows(Visibility):
    """Who sees whom among L tokens of a canvas and S shadows behind them; ``keys`` are of all L + S.

    Args:
        length: L.
        columns: (B, S) int64, the column of each shadow.
    """

    length: int
    columns: Tensor

    @override
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        both = self.length + self.columns.shape[1]
        return indices(len(self.columns), both, both, self.columns.device)

    @override
    def rule(self) -> Rule:
        length, columns = self.length, self.columns

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shadow = query >= length
            own = columns[row, (query - length).clamp(min=0)]
            return torch.where(shadow, key != own, key < length) & self.shown(row, query, key)

        return seen


@dataclass(frozen=True)
class ShadowNeighbours(Neighbours):
    """Neighbours on the canvas, for the shadows, too: those beside their columns.

    Args:
        visibility: who sees whom.
    """

    visibility: Shadows

    @override
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        columns, length = self.visibility.columns[..., None].expand(-1, -1, source.shape[-1]), self.visibility.length
        if self.visibility.keys is not None:
            source = source * self.visibility.keys[..., None]
        canvas, shadows = source[:, :length], source[:, length:]

        def at(offset: int) -> Tensor:
            found = moved(canvas, offset)
            return torch.cat([found, found.gather(1, columns) if offset else shadows], dim=1)

        return at


def shadow_hidden(
    body: Body,
    tokens: Tensor,
    shadow: Tensor,
    attention_mask: Tensor | None = None,
    select: Tensor | None = None,
) -> Tensor:
    """Hidden states of a canvas and of the shadows behind it.

    Args:
        body: the network.
        tokens: (B, L + S) int64, the canvas and S masks.
        shadow: (B, S) int64, the column of each of those.
        attention_mask: (B, L + S) bool or 0/1, true for real tokens and for shadows that count.
        select: (N,) flat indices into B * (L + S).

    Returns:
        (B, L + S, D), or (N, D) with ``select``.

    Raises:
        ValueError: if the network doesn't see the whole canvas, or reads its answers elsewhere.
    """
    if body.causal or body.block_length is not None or body.shift or body.widening is not None:
        raise ValueError(
            "shadows need a backbone that sees the whole canvas and answers at the position itself; got "
            f"causal={body.causal}, block_length={body.block_length}, shift={body.shift}; "
            "use another sampler, such as saber"
        )
    length = tokens.shape[1] - shadow.shape[1]
    check_inputs(tokens[:, :length], None, None, None, vocab_size=body.vocab_size, max_length=body.max_length)
    keys = None if attention_mask is None else attention_mask.bool()
    visibility = Shadows(keys=keys, length=length, columns=shadow)
    columns = torch.arange(length, device=tokens.device).expand(len(tokens), -1)
    positions = torch.cat([columns, shadow], dim=1)
    return body.run(tokens, positions, visibility, select, neighbours=ShadowNeighbours(visibility))
