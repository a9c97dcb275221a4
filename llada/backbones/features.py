"""Partial updates: all layers' outputs are kept, and a pass computes only the tokens that have changed most.

    x_{l+1} = x_l + attention_l + feed_forward_l,

where the two terms come from an earlier pass for all tokens but a few. Which few is told by the layer's values, which
are cheap: those with the least cosine similarity to the stored ones.

Reference: Liu et al., "dLLM-Cache: Accelerating Diffusion Large Language Models with Adaptive Caching", arXiv
2506.06295.

Shapes: B rows, L columns, Q computed tokens, D width, G key/value heads, d head width.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from llada.backbones.attention.kernels import Visibility
from llada.backbones.cache import KeyValueCache
from llada.backbones.layers import Block
from llada.backbones.rotary import Rotation, rotation

if TYPE_CHECKING:
    from llada.backbones.transformer import BidirectionalTransformer


class FeatureCache:
    """Keys, values and the outputs of both halves of every layer, for one canvas.

    Args:
        backbone: whose features they are.
        store: its empty key/value cache.
    """

    def __init__(self, backbone: "BidirectionalTransformer", store: KeyValueCache) -> None:
        if backbone.block_length is not None:
            raise ValueError("a block-causal backbone has an exact cache; use it instead of partial updates")
        if backbone.convolution or backbone.causal:
            feature = "a short convolution" if backbone.convolution else "a causal mask"
            raise ValueError(f"partial updates don't know {feature}; use another cache, such as DualCache()")
        self.backbone, self.store = backbone, store
        rows, weight = store.keys[0].shape[0], backbone.embedding.weight
        shape = (rows, store.length, backbone.width)
        self.attention = [weight.new_zeros(shape) for _ in store.keys]
        self.feed_forward = [weight.new_zeros(shape) for _ in store.keys]

    @property
    def lead(self) -> int:
        """See `KeyValueCache`."""
        return self.store.lead

    def hidden(
        self,
        tokens: Tensor,
        start: Tensor,
        width: int,
        share: float,
        *,
        select: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The body, with some tokens computed afresh.

        Args:
            tokens: (B, L) int64, the whole canvas.
            start: (B,) int64, first column of each row that may be updated; all behind it may.
            width: L minus the least of them.
            share: of a row's columns from its start on that every layer but the first computes, in (0, 1].
            select: (N,) flat indices into B * L.
            attention_mask: (B, L) bool, true for real tokens.

        Returns:
            (N, D).
        """
        backbone = self.backbone
        visibility = Visibility(None if attention_mask is None else attention_mask.bool())
        x = backbone.embedding(tokens)
        reach = (tokens.shape[1] - start)[:, None]  # how many columns a row updates at most
        everything = start[:, None] + _up_to(reach, width)
        for layer, block in enumerate(backbone.blocks):
            assert isinstance(block, Block)
            changed = everything
            if layer > 0 and share < 1.0:
                count = (share * reach.double()).ceil().long()
                order = self._likeness(layer, block, x, everything, reach).argsort(dim=1, stable=True)
                changed = everything.gather(1, order.gather(1, _up_to(count, math.ceil(share * width))))
            turn = rotation(changed, backbone.head_dim, backbone.rope_theta, x.dtype)
            x = self._layer(layer, block, x, changed, turn, visibility)
        return backbone.final_norm(x.flatten(0, 1)[select])

    def _likeness(self, layer: int, block: Block, x: Tensor, positions: Tensor, reach: Tensor) -> Tensor:
        """Cosines of the values at positions (B, Q) and the stored ones; infinite behind the first ``reach`` (B, 1)."""
        index = positions[..., None]
        values = block.attention.v_proj(block.attention_norm(x.gather(1, index.expand(-1, -1, x.shape[-1]))))
        stored = rearrange(self.store.values[layer], "b g l d -> b l (g d)")
        stored = stored.gather(1, index.expand(-1, -1, stored.shape[-1]))
        likeness = F.cosine_similarity(values.float(), stored.float(), dim=-1)
        columns = torch.arange(positions.shape[1], device=positions.device)
        return likeness.masked_fill(columns >= reach, torch.inf)

    def _layer(
        self, layer: int, block: Block, x: Tensor, changed: Tensor, turn: Rotation, visibility: Visibility
    ) -> Tensor:
        index = changed[..., None].expand(*changed.shape, x.shape[-1])
        normed = block.attention_norm(x.gather(1, index))
        gathered = block.attention(normed, turn, visibility, (self.store, layer, changed))
        self.attention[layer].scatter_(1, index, block.attention.o_proj(gathered))
        x = x + self.attention[layer]
        fresh = block.feed_forward(block.feed_forward_norm(x.gather(1, index)))
        self.feed_forward[layer].scatter_(1, index, fresh)
        return x + self.feed_forward[layer]


def _up_to(counts: Tensor, width: int) -> Tensor:
    """0, 1, ..., count - 1 for every row, (B, width); then 0 again, so that a row computes nothing else, if twice."""
    index = torch.arange(width, device=counts.device).expand(len(counts), -1)
    return torch.where(index < counts, index, 0)
