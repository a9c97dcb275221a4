"""A pass over some columns of the canvas, with the keys and values of the others from a cache.

Shapes: B rows, L columns of the canvas, Q columns of the region, M wanted positions per row, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import Denoiser
from llada.rows import has_context


def read_columns(tokens: Tensor, where: Tensor, lead: int, attention_mask: Tensor | None) -> Tensor:
    """Where the predictions of positions (B, M) are read, (B, M) int64.

    Args:
        tokens: (B, L) canvas.
        where: (B, M) int64.
        lead: how many columns to the left of a token its prediction is read; that of a row's first token at itself.
        attention_mask: (B, L), true for real tokens; None: all.
    """
    return where - lead * has_context(tokens, attention_mask).gather(1, where).long() if lead else where


def region_logits(
    denoiser: Denoiser,
    store: Any,
    tokens: Tensor,
    where: Tensor,
    region: slice | Tensor,
    model_kwargs: dict[str, Any],
) -> Tensor:
    """Logits of positions (B, M) from a pass over a region of the canvas, (B, M, V).

    Args:
        denoiser: the network that made the cache.
        store: the cache.
        tokens: (B, L) canvas.
        where: (B, M) int64; the answer has a meaning where a position is read in the region.
        region: columns that are computed: a slice, or (B, Q) int64 as `row_columns` makes them.
        model_kwargs: for the network.
    """
    part = tokens[:, region] if isinstance(region, slice) else tokens.gather(1, region)
    start = region.start if isinstance(region, slice) else region[:, :1]
    read = read_columns(tokens, where, store.lead, model_kwargs.get("attention_mask"))
    # Rows that are finished ask for positions anywhere, and don't look at the answer.
    queries = (read - start).clamp(0, part.shape[1] - 1)
    return denoiser.logits(part, queries, cache=store, region=region, **model_kwargs)


def row_columns(spans: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """The columns from start to stop of each row, (B, Q) int64; shorter rows repeat their first one."""
    starts, stops = torch.tensor(spans, device=device).T[..., None]
    width = max(stop - start for start, stop in spans)
    columns = starts + torch.arange(width, device=device)
    return torch.where(columns < stops, columns, starts)
