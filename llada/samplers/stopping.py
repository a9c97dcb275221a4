"""Early stops: after a stop token, such as EOS, the rest of a row is filled without model calls.

Shapes: B rows, L columns.
"""

from functools import reduce
from operator import or_

import torch
from torch import Tensor

TokenIds = int | tuple[int, ...] | None
"""One token, several, or none."""


def token_ids(tokens: TokenIds) -> tuple[int, ...]:
    """The tokens as a tuple; None is the empty one."""
    if tokens is None:
        return ()
    return (tokens,) if isinstance(tokens, int) else tuple(tokens)


def is_stop(tokens: Tensor, stops: tuple[int, ...]) -> Tensor:
    """Which tokens, of any shape, are stop tokens; bool of the same shape."""
    return reduce(or_, (tokens == stop for stop in stops), torch.zeros_like(tokens, dtype=torch.bool))


def ended(tokens: Tensor, stops: tuple[int, ...], given: Tensor, still_open: Tensor) -> Tensor:
    """Which rows hold a stop token that was written and has nothing open before it, (B,) bool.

    Args:
        tokens: (B, L) canvas.
        stops: the stop tokens.
        given: (B, L) bool, which columns were never open; a stop token there doesn't count.
        still_open: (B, L) bool, which columns are open now.
    """
    return (is_stop(tokens, stops) & ~given & (still_open.cumsum(1) == 0)).any(1)


def fill_rows(tokens: Tensor, still_open: Tensor, rows: Tensor, stops: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Fill what is open in some rows with the first of the stop tokens.

    Args:
        tokens: (B, L) canvas.
        still_open: (B, L) bool, which columns are open.
        rows: (B,) bool, the rows that have ended.
        stops: the stop tokens.

    Returns:
        The canvas (B, L), and which columns were filled, (B, L) bool.
    """
    filled = still_open & rows[:, None]
    return tokens.masked_fill(filled, stops[0]), filled
