"""The body of a Transformer: embedding, layers and final norm, on any part of a canvas that has to be computed.

    x_0 = embedding(tokens),    x_{l+1} = layer_l(x_l, context),    hidden = norm(x_last)

A backbone is an `nn.Module` in two halves, so that losses and samplers pay for the vocabulary only where they need it:

    hidden(tokens (B, L)) -> (B, L, D)      the body, final norm included
    head(hidden (..., D)) -> (..., V)       the projection to the vocabulary

and ``forward`` is ``head(hidden(tokens))``.

Shapes: B rows, L tokens of a row, D width, N selected tokens, V vocabulary, C width of a condition, R conditions: one
per row of the batch (R = B), or one for all of them (R = 1).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada import rows
from llada.backbones import rotary
from llada.backbones.attention.block_causal import block_causal
from llada.backbones.attention.kernels import check_answers_padding, kernel_by_name
from llada.backbones.attention.unpadded import unpadded
from llada.backbones.attention.visibility import Visibility
from llada.backbones.attention.widening import Widening
from llada.backbones.cache import Cached, KeyValueCache, Region
from llada.backbones.checkpointing import Checkpointing, as_checkpointing
from llada.backbones.convolution import Neighbours, RowNeighbours
from llada.backbones.inputs import check_inputs, rotary_positions
from llada.backbones.layer import Context, Layer


class Body(nn.Module):
    """Embedding, layers and final norm; a subclass makes them and a head, and sets these attributes in its constructor.

    Attributes:
        embedding: (V, D).
        blocks: the layers, see `llada.backbones.layer.Layer`; each says itself what may be done with it.
        final_norm: follows the last layer.
        head: (..., D) to (..., V).
        vocab_size: number of token ids, V.
        width: D.
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads, which a cache keeps.
        head_dim: width of a head.
        max_length: longest row that is accepted, in tokens.
        rope_theta: base of the rotary wavelengths.
        rotary_dim: how many dimensions of a head are rotated, from the first; None: all.
        causal: whether a token sees only itself and those before it.
        shift: whether the output at position i is read at i - 1; the first token of a row, or of a packed segment,
            reads its own.
        block_length: a token sees its own block of so many tokens and all blocks before it; None: everything. With
            ``causal`` it sees none behind it, and the blocks are those of two-copy training alone.
        widening: how far the attention has been widened from causal to full while a next-token model is converted;
            None for what ``causal`` says. Set in training by `llada.training.callbacks.WideningAttention`.
        attention: name in `llada.backbones.attention.kernels.KERNELS`.
        activation_checkpointing: what is recomputed in the backward pass, see `llada.backbones.checkpointing`.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer, Body
        >>> model = BidirectionalTransformer(vocab_size=9, width=8, num_layers=1, num_heads=2)
        >>> tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
        >>> wanted = torch.tensor([2, 3])  # the last place of row 0 and the first of row 1
        >>> logits = model.head(model.hidden(tokens, select=wanted))  # a head over two places, not over all six
        >>> isinstance(model, Body), torch.allclose(logits, model(tokens).flatten(0, 1)[wanted], atol=1e-6)
        (True, True)
    """

    embedding: nn.Embedding
    blocks: nn.ModuleList
    final_norm: nn.Module
    head: nn.Module
    vocab_size: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int
    rope_theta: float
    rotary_dim: int | None = None
    causal: bool = False
    shift: bool = False
    block_length: int | None = None
    widening: Widening | None = None
    attention: str = "auto"
    activation_checkpointing: bool | Checkpointing = False

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Logits of every position.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool or 0/1, true for real tokens.
            kwargs: keywords of `hidden`.

        Returns:
            (B, L, V).
        """
        return self.head(self.hidden(tokens, attention_mask=attention_mask, **kwargs))

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the blocks in place, which losses and samplers run too; they don't call `forward`.

        Args:
            arguments: of `torch.compile`.
            options: of `torch.compile`, such as ``dynamic``.
        """
        for block in self.blocks:
            block.compile(*arguments, **options)

    def hidden(
        self,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        select: Tensor | None = None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
        condition: Tensor | None = None,
        soft_ids: Tensor | None = None,
        soft_weights: Tensor | None = None,
    ) -> Tensor:
        """The body: what the head turns into logits.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool or 0/1, true for real tokens; with a cache, of the cache's whole canvas.
            segment_ids: (B, L) integers for packed rows: tokens see their own segment, and positions restart with it.
            select: (N,) flat indices into B * L. Only their results are computed after the last attention.
            cache: keys and values of the canvas that ``tokens`` are a part of; read and updated.
            region: where ``tokens`` stand on that canvas. Outputs of a region aren't shifted: what predicts a token is
                the output ``cache.lead`` columns to its left.
            condition: (R, C) what steers the layers, for layers that ask for it.
            soft_ids: (B, L, k) int64, tokens whose embeddings are mixed at each position, not that of ``tokens``.
            soft_weights: (B, L, k), how much each of them counts.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: if the row is too long, a token id has no embedding (checked on the CPU), or the combination of
                arguments can't be computed.
        """
        check_inputs(tokens, segment_ids, cache, region, vocab_size=self.vocab_size, max_length=self.max_length)
        keys = None if attention_mask is None else attention_mask.bool()
        if keys is not None and self.shift:
            check_answers_padding(self.attention)
        mixed = None if soft_ids is None or soft_weights is None else self._mixed(soft_ids, soft_weights)
        if keys is not None and cache is None and mixed is None and self._leaves_padding_out(condition):
            packed = unpadded(tokens, keys, segment_ids, causal=self.causal)
            if packed is not None:
                where = packed.packed_index(select)
                x = self.run(packed.tokens, packed.positions, packed.visibility, where, condition=condition)
                return packed.restored(x, select)
            keys = None
        positions = rotary_positions(tokens, segment_ids, region)
        visibility = self._visibility(tokens, keys, segment_ids, cache, region)
        where = _shifted(tokens, select, keys, segment_ids) if self.shift and region is None else select
        x = self.run(
            tokens, positions, visibility, where, condition=condition, cache=cache, region=region, embedded=mixed
        )
        return x.view(*tokens.shape, -1) if select is None and where is not None else x

    def _mixed(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings, (B, L, D), without the (B, L, k, D) of their parts."""
        flat = weights.to(self.embedding.weight.dtype).flatten(0, -2)
        bags = F.embedding_bag(ids.flatten(0, -2), self.embedding.weight, per_sample_weights=flat, mode="sum")
        return bags.view(*ids.shape[:-1], -1)

    def _visibility(
        self,
        tokens: Tensor,
        keys: Tensor | None,
        segments: Tensor | None,
        cache: KeyValueCache | None,
        region: Region | None,
    ) -> Visibility:
        if self.widening is not None:
            if cache is not None:
                raise ValueError(
                    "no cache holds while the attention is widened: the keys of a step aren't those of the next one; "
                    "decode without a cache, or set backbone.widening = None for the full attention"
                )
            return self.widening.visibility(tokens, keys, segments)
        # On a cached canvas, a causal mask is that of blocks of one token.
        reach = (None if cache is None else 1) if self.causal else self.block_length
        if reach is None:
            return Visibility(keys=keys, segments=segments, causal=self.causal)
        return block_causal(reach, tokens, keys, segments, cache, region)

    def _leaves_padding_out(self, condition: Tensor | None) -> bool:
        """Whether nothing reads what stands at padding, which then need not be computed.

        A shifted output may be read there, rows with conditions of their own can't be joined, and a compiler wants
        fixed shapes.
        """
        if self.shift or self.block_length is not None or self.widening is not None or torch.compiler.is_compiling():
            return False
        if condition is not None and len(condition) > 1:
            return False
        needed = any(getattr(block, "reads_padding", True) for block in self.blocks)
        return not needed and kernel_by_name(self.attention).unpads

    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        visibility: Visibility,
        select: Tensor | None = None,
        *,
        neighbours: Neighbours | None = None,
        condition: Tensor | None = None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
        embedded: Tensor | None = None,
    ) -> Tensor:
        """Embedding, layers and final norm, of any tokens that see one another in any way.

        Args:
            tokens: (B, L) int64.
            positions: (L,) or (B, L) integers, which the tokens are rotated by.
            visibility: who may see whom.
            select: (N,) flat indices into B * L; None for all tokens.
            neighbours: where the tokens beside each token are found; None: in the row, or on the cached canvas.
            condition: (R, C) what steers the layers, or None.
            cache: keys and values of the canvas that the tokens are a part of, or None.
            region: where the tokens stand on that canvas, or None.
            embedded: (B, L, D) what the layers read instead of the tokens' embeddings, or None.

        Returns:
            (B, L, D), or (N, D) with ``select``.
        """
        checkpointing = as_checkpointing(self.activation_checkpointing) if self.training else None
        neighbours = neighbours or RowNeighbours(visibility.keys, visibility.segments)
        context = Context(self.rotation(positions), visibility, neighbours, condition)
        visibility.prepare(tokens)
        x = self.embedding(tokens) if embedded is None else embedded
        for layer, block in enumerate(self.blocks):
            if cache is not None and region is not None:
                cached = Cached(cache, layer, region)
                context = context._replace(cached=cached, neighbours=neighbours.on(cached, visibility.keys))
            arguments = x, context, select if layer == len(self.blocks) - 1 else None
            if checkpointing is None:
                x = block(*arguments)
            elif isinstance(block, Layer):
                x = block.recomputed(checkpointing, layer, *arguments)
            else:
                x = checkpointing(block, *arguments) if checkpointing.recomputes(layer) else block(*arguments)
        return self.finish(x, context, select)

    def rotation(self, positions: Tensor) -> rotary.Rotation:
        """The rotation of positions, (L,) or (B, L) integers."""
        return rotary.rotation(
            positions, self.rotary_dim or self.head_dim, self.rope_theta, self.embedding.weight.dtype
        )

    def finish(self, x: Tensor, context: Context, select: Tensor | None) -> Tensor:
        """What follows the last layer: the final norm of (B, L, D), or of (N, D) with ``select``."""
        return self.final_norm(x)

    def new_cache(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty key/value cache for a canvas of ``batch_size`` rows and ``length`` tokens."""
        weight = self.embedding.weight
        return KeyValueCache(
            len(self.blocks),
            (batch_size, self.num_kv_heads, length, self.head_dim),
            device=weight.device,
            dtype=weight.dtype,
            lead=int(self.shift),
            ends_at_region=self.causal or self.block_length is not None,
        )


def _shifted(tokens: Tensor, select: Tensor | None, keys: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """Flat indices of the positions that predict the selected ones: each its left neighbour, or itself without one."""
    if select is None:
        select = torch.arange(tokens.numel(), device=tokens.device)
    return select - rows.has_context(tokens, keys, segment_ids).flatten()[select].to(select.dtype)
