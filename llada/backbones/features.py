"""Partial updates: all layers' outputs are kept, and a pass computes only the tokens that have changed most.

    x_{l+1} = x_l + attention_l + feed_forward_l,

where the two terms come from an earlier pass for all tokens but a few. The layer's values, which are cheap, tell which
few: those whose cosine similarity to the stored ones is the least.

Reference: Liu et al., "dLLM-Cache: Accelerating Diffusion Large Language Models with Adaptive Caching", arXiv
2506.06295.

Shapes: B rows, L columns, Q computed tokens, D width, G key/value heads, d head width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from llada.backbones.attention.visibility import Visibility
from llada.backbones.body import Body
from llada.backbones.cache import Cached, KeyValueCache, writable
from llada.backbones.convolution import RowNeighbours
from llada.backbones.layer import Context


class FeatureCache:
    """Keys, values and the outputs of both halves of every layer, for one canvas.

    Args:
        body: the network; its layers allow ``partial_updates``, see `llada.backbones.layer.Layer`.
        store: an empty key/value cache of it.

    Raises:
        ValueError: if the network can't be updated in part, saying why.
    """

    def __init__(self, body: Body, store: KeyValueCache) -> None:
        if body.block_length is not None:
            raise ValueError("a block-causal backbone has an exact cache; use it instead of partial updates")
        if body.causal:
            raise ValueError("partial updates don't know a causal mask; use another cache, such as DualCache()")
        for layer, block in enumerate(body.blocks):
            if not getattr(block, "partial_updates", False):
                raise ValueError(
                    f"partial updates don't know layer {layer}, a {type(block).__name__} that isn't attention and "
                    "feed-forward alone but has, for example, a short convolution; use another cache, such as "
                    "DualCache()"
                )
        self.body, self.store = body, store
        self.blocks: list[Any] = list(body.blocks)
        rows, weight = store.keys[0].shape[0], body.embedding.weight
        shape = (rows, store.length, body.width)
        self.attention = [weight.new_zeros(shape) for _ in store.keys]
        self.feed_forward = [weight.new_zeros(shape) for _ in store.keys]

    @property
    def lead(self) -> int:
        """How many columns to the left of a token its prediction is read."""
        return self.store.lead

    def hidden(
        self,
        tokens: Tensor,
        start: Tensor,
        width: int,
        share: float | Tensor,
        *,
        select: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states, with some tokens computed afresh.

        Args:
            tokens: (B, L) int64, the whole canvas.
            start: (B,) int64, first column of each row that may be updated; all to its right may, too.
            width: L minus the smallest ``start``.
            share: share of a row's columns from its start on that every layer but the first computes, in (0, 1];
                one for all rows, or (B,) float64 on the CPU.
            select: (N,) flat indices into B * L.
            attention_mask: (B, L) bool, true for real tokens.

        Returns:
            (N, D).
        """
        body, x = self.body, self.body.embedding(tokens)
        visibility = Visibility(None if attention_mask is None else attention_mask.bool())
        reach = (tokens.shape[1] - start)[:, None]  # how many columns a row updates at most
        everything = start[:, None] + _up_to(reach, width)
        shares = share.to(reach.device)[:, None] if isinstance(share, Tensor) else share
        largest = math.ceil(width * (float(share.max()) if isinstance(share, Tensor) else share))
        count = (shares * reach.double()).ceil().long()
        for layer in range(len(self.blocks)):
            changed = everything
            if layer > 0 and (isinstance(share, Tensor) or share < 1.0):
                order = self._likeness(layer, x, everything, reach).argsort(dim=1, stable=True)
                changed = everything.gather(1, order.gather(1, _up_to(count, largest)))
            cached = Cached(self.store, layer, changed)
            x = self._layer(x, Context(body.rotation(changed), visibility, RowNeighbours(), cached=cached))
        return body.final_norm(x.flatten(0, 1)[select])

    def move(self, source: Tensor) -> None:
        """Follow a canvas whose columns have moved, as `KeyValueCache.move`."""
        self.store.move(source)
        index = source.clamp(min=0)[..., None].expand(-1, -1, self.body.width)
        self.attention = [buffer.gather(1, index) for buffer in self.attention]
        self.feed_forward = [buffer.gather(1, index) for buffer in self.feed_forward]

    def sparing(self, resting: Tensor, update: Callable[[], Tensor]) -> Tensor:
        """What an update says, which leaves what is kept of some rows as it was.

        Args:
            resting: (B,) bool, those rows.
            update: a call of `hidden`.
        """
        kinds = (self.store.keys, self.store.values, self.attention, self.feed_forward)
        kept = [[buffer[resting] for buffer in buffers] for buffers in kinds]
        said = update()
        for buffers, before in zip(kinds, kept, strict=True):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = writable(buffer, buffer)
                buffers[layer][resting] = before[layer]
        return said

    def _likeness(self, layer: int, x: Tensor, columns: Tensor, reach: Tensor) -> Tensor:
        """How alike the values at columns (B, Q) and the stored ones are, (B, Q).

        It is the cosine in steps above its rounding, since tokens that haven't changed mustn't be put in an order by
        that; infinite behind the first ``reach`` (B, 1).
        """
        values = self.blocks[layer].values(_at(x, columns))
        stored = _at(rearrange(self.store.values[layer], "b g l d -> b l (g d)"), columns)
        precise = torch.promote_types(values.dtype, torch.float32)
        likeness = F.cosine_similarity(values.to(precise), stored.to(precise), dim=-1)
        grain = 32 * torch.finfo(precise).eps
        likeness = (likeness / grain).round()
        return likeness.masked_fill(torch.arange(columns.shape[1], device=x.device) >= reach, torch.inf)

    def _layer(self, x: Tensor, context: Context) -> Tensor:
        """A layer's output for all tokens (B, L, D), of which it computes those of the context's region."""
        assert context.cached is not None
        layer, columns = context.cached.layer, context.cached.columns(len(x), x.device)
        block, index = self.blocks[layer], columns[..., None].expand(-1, -1, x.shape[-1])
        attended = block.attend(_at(x, columns), context)
        self.attention[layer] = writable(self.attention[layer], attended).scatter_(1, index, attended)
        x = x + self.attention[layer]
        fed = block.feed(_at(x, columns))
        self.feed_forward[layer] = writable(self.feed_forward[layer], fed).scatter_(1, index, fed)
        return x + self.feed_forward[layer]


def _at(x: Tensor, columns: Tensor) -> Tensor:
    """The vectors (B, L, D) at columns (B, Q), (B, Q, D)."""
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))


def _up_to(counts: Tensor, width: int) -> Tensor:
    """0, 1, ..., count - 1 for every row, (B, width); then 0 again, so that a row computes nothing else, if twice."""
    index = torch.arange(width, device=counts.device).expand(len(counts), -1)
    return torch.where(index < counts, index, 0)
