"""One pass in which a model checks the tokens that it has guessed, and guesses what follows those that may be kept.

A pass holds columns of a canvas, each seeing itself and those before it, so that their outputs are those of the
next-token model with the same weights. Behind them stand groups of masks. The masks of group j see the canvas to the
left of its start and one another:

    seen(canvas, key) = key is on the canvas and key <= query
    seen(mask, key)   = key is on the canvas and key < start of its group, or key is a mask of the same group

A group that starts behind the first j guesses says what may come next if exactly these are kept. In a causal backbone
a mask sees those before it in its group, as it does everywhere in that model.

Reference: Liu et al., "TiDAR: Think in Diffusion, Talk in Autoregression", arXiv 2511.08923.
Shapes: B rows, L columns of the canvas, C computed columns, J groups of k masks, Q = C + J k, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.visibility import Rule, Visibility, indices
from llada.backbones.body import Body
from llada.backbones.cache import Cached
from llada.backbones.convolution import Neighbours, ShortConvolution


@dataclass(frozen=True, kw_only=True)
class Drafts(Visibility):
    """Who sees whom in a pass of `Drafting`; ``keys`` are of the whole cache, (B, K).

    Args:
        reach: (B, Q) int64, the last column of the canvas that each query sees.
        group: (Q,) int64, the group of each mask; -1 for columns of the canvas.
        width: columns of the cache that belong to the canvas; behind them stand the groups, one after the other.
        size: masks of a group, k.
        ordered: whether a mask sees only itself and those before it in its group.
    """

    reach: Tensor
    group: Tensor
    width: int
    size: int
    ordered: bool

    @override
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.keys is not None
        rows, queries = self.reach.shape
        return indices(rows, queries, self.keys.shape[1], self.reach.device)

    @override
    def rule(self) -> Rule:
        size = max(self.size, 1)

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            of_canvas = (key < self.width) & (key <= self.reach[row, query]) & self.shown(row, query, key)
            own = (key >= self.width) & ((key - self.width) // size == self.group[query])
            if self.ordered:
                number = query - (len(self.group) - (self.group >= 0).sum())  # of a mask among all masks
                own = own & ((key - self.width) % size <= number % size)
            return of_canvas | own

        return seen


@dataclass(frozen=True)
class DraftNeighbours(Neighbours):
    """The tokens before each token: of a mask those of its group, and before these the canvas.

    Args:
        columns: (B, C) int64, computed columns of the canvas.
        starts: (B, J) int64, the column of each group's first mask.
        size: masks of a group, k.
        width: columns of the cache that belong to the canvas.
        cached: the layer's place in the cache.
        keys: (B, K) bool, true for real tokens.
    """

    columns: Tensor
    starts: Tensor
    size: int
    width: int
    cached: Cached | None = None
    keys: Tensor | None = None

    @override
    def on(self, cached: Cached, keys: Tensor | None) -> Neighbours:
        return replace(self, cached=cached, keys=keys)

    @override
    def of(self, source: Tensor) -> Callable[[int], Tensor]:
        assert self.cached is not None
        assert self.keys is not None
        stored = self.cached.columns(len(source), source.device)
        known = self.cached.write_neighbours(source * self.keys.gather(1, stored)[..., None])
        place = torch.arange(self.size, device=source.device)

        def at(offset: int) -> Tensor:
            in_group = stored[:, self.columns.shape[1] :].unflatten(1, (self.starts.shape[1], self.size)) + offset
            before = self.starts[..., None] + place + offset
            of_masks = torch.where(place + offset >= 0, in_group, before).flatten(1)
            there = torch.cat([self.columns + offset, of_masks], 1)
            index = there.clamp(min=0)[..., None].expand_as(source)
            return known.gather(1, index) * (there >= 0)[..., None]

        return at


class Drafting:
    """Keys and values of one canvas, and the passes over it.

    Args:
        body: the network.
        batch_size: B.
        length: L.
        guesses: k.

    Raises:
        ValueError: if the network's outputs aren't those of a next-token model under a causal mask, or can't be had
            behind a cache.
    """

    def __init__(self, body: Body, batch_size: int, length: int, guesses: int) -> None:
        check_drafts(body)
        self.body, self.guesses, self.width = body, guesses, length + guesses
        self.cache = body.new_cache(batch_size, self.width + (guesses + 1) * guesses)

    def __call__(
        self,
        tokens: Tensor,
        columns: Tensor,
        starts: Tensor,
        mask_token_id: int,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of columns of the canvas, and of groups of masks.

        What the columns' tokens give is kept for later passes. All columns to the left of them must have been computed
        from the tokens that they hold now.

        Args:
            tokens: (B, L) int64, the canvas.
            columns: (B, C) int64, rising; columns from L on hold masks.
            starts: (B, J) int64, the column of each group's first mask; J is k + 1 at most.
            mask_token_id: what stands at the masks.
            attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.

        Returns:
            (B, C, D) and (B, J, k, D). With the shift, the output at a column is about the column behind it.
        """
        groups, size = starts.shape[1], self.guesses
        device = tokens.device
        mask = torch.arange(groups * size, device=device)
        group = torch.cat([mask.new_full((columns.shape[1],), -1), mask // max(size, 1)])
        ahead = starts.repeat_interleave(size, 1)
        positions = torch.cat([columns, ahead + mask % max(size, 1)], 1)
        known = F.pad(tokens, (0, size), value=mask_token_id).gather(1, columns)
        keys = torch.ones(len(tokens), self.cache.length, dtype=torch.bool, device=device)
        if attention_mask is not None:
            keys[:, : tokens.shape[1]] = attention_mask.bool()
        visibility = Drafts(
            keys=keys,
            reach=torch.cat([columns, ahead - 1], 1),
            group=group,
            width=self.width,
            size=size,
            ordered=self.body.causal,
        )
        hidden = self.body.run(
            torch.cat([known, torch.full_like(ahead, mask_token_id)], 1),
            positions,
            visibility,
            neighbours=DraftNeighbours(columns, starts, size, self.width),
            cache=self.cache,
            region=torch.cat([columns, (self.width + mask).expand(len(tokens), -1)], 1),
        )
        of_canvas, of_masks = hidden.split([columns.shape[1], groups * size], 1)
        return of_canvas, of_masks.unflatten(1, (groups, size))


def check_drafts(body: Body) -> None:
    """Whether a network can draft and verify.

    Raises:
        ValueError: if it can't, saying why.
    """
    name = type(body).__name__
    if not body.shift:
        raise ValueError(
            f"{name} has shift=False: it reads what it says of a token at the token's own place, so a causal pass over "
            "guessed tokens says nothing of them; convert a model with shift=True, or decode this one with another "
            "sampler, such as low_confidence"
        )
    if body.widening is not None:
        raise ValueError("the attention is being widened; set backbone.widening = None to decode")
    if any(isinstance(module, ShortConvolution) and module.offsets[-1] > 0 for module in body.modules()):
        raise ValueError(
            f"{name} has a centred convolution, which shows a token those behind it; build it with block_length or "
            "causal=True, then it ends at the token, or with convolution=0"
        )
