"""LLaDA's Transformer: LLaMA's layers without the causal mask.

A backbone is an `nn.Module` in two halves, so that losses and samplers pay for the vocabulary only where they need it:

    hidden(tokens (B, L)) -> (B, L, D)      the body, final norm included
    head(hidden (..., D)) -> (..., V)       the projection to the vocabulary

and ``forward`` is ``head(hidden(tokens))``.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from llada.backbones.attention.block_causal import block_causal
from llada.backbones.attention.kernels import check_answers_padding, kernel_by_name
from llada.backbones.attention.unpadded import unpadded
from llada.backbones.attention.visibility import Visibility
from llada.backbones.cache import KeyValueCache, Region
from llada.backbones.checkpointing import Checkpointing, as_checkpointing
from llada.backbones.features import FeatureCache
from llada.backbones.inputs import check_heads, check_inputs, token_positions
from llada.backbones.layers import Attention, Block, ShortConvolution, SwiGLU, TiedHead
from llada.backbones.mixture import MixtureOfExperts
from llada.backbones.rotary import rotation
from llada.backbones.two_copy import two_copy_hidden


class BidirectionalTransformer(nn.Module):
    """RMSNorm, rotary positions, grouped-query attention and SwiGLU; every token sees every token.

    Args:
        vocab_size: rows of the embedding and of the head, V. The mask token needs one of them.
        width: D.
        num_layers: blocks.
        num_heads: H, query heads.
        num_kv_heads: G, key/value heads, a divisor of ``num_heads``; None for as many as query heads.
        head_dim: d; None for ``width / num_heads``.
        hidden_width: of the feed-forward layer; None for the multiple of 64 at or above 8/3 of ``width``.
        max_length: longest row that is accepted, in tokens.
        rope_theta: base of the rotary wavelengths.
        norm_eps: epsilon of the RMSNorms.
        tie_embeddings: whether the head shares the embedding's matrix.
        qkv_bias: biases on queries, keys and values.
        bias: biases on the other projections, the head included.
        head_bias: a bias on the head, 0 at first; see `llada.training.callbacks.UnigramBias`.
        qk_norm: whether queries and keys are normalised per head before rotation.
        num_experts: experts of a mixture in place of each feed-forward layer, ``hidden_width`` wide each; 0 for none.
        experts_per_token: experts that a token goes through.
        shared_width: of an expert that every token goes through beside; 0 for none.
        causal: see only earlier tokens; for the autoregressive twin and for converted checkpoints.
        shift: the output at position i is read at i - 1 (models adapted from next-token prediction, such as Dream).
            Position 0 reads its own.
        convolution: window of a depthwise convolution in front of each attention, odd; 0 for none (LLaDA). It ends at
            the token itself if ``causal`` or ``block_length`` is set, and else is centred on it.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations; or which
            of them, see `llada.backbones.checkpointing`.
        attention: name of the attention kernel, see `llada.backbones.attention.kernels.KERNELS`.
        block_length: a token sees its own block of so many tokens, counted from the first real token of the row, and
            all blocks before it (LLaDA2, BD3LM); None: everything. Keys of finished blocks can then be cached exactly.

    Raises:
        ValueError: if sizes don't divide where they must.

    Reference:
        Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, section 2.2 and appendix B.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_width: int | None = None,
        max_length: int = 4096,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-5,
        tie_embeddings: bool = False,
        qkv_bias: bool = False,
        bias: bool = False,
        head_bias: bool = False,
        qk_norm: bool = False,
        num_experts: int = 0,
        experts_per_token: int = 8,
        shared_width: int = 0,
        causal: bool = False,
        shift: bool = False,
        convolution: int = 0,
        activation_checkpointing: bool | Checkpointing = False,
        attention: str = "auto",
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        check_heads(width, num_heads, num_kv_heads, head_dim)
        if block_length is not None and (block_length < 1 or causal):
            raise ValueError(f"block_length must be 1 or more, without causal; got {block_length}, {causal=}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be 1 or more; got {num_layers}")
        self.vocab_size, self.width, self.num_layers, self.num_heads = vocab_size, width, num_layers, num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = width // num_heads if head_dim is None else head_dim
        self.hidden_width = 64 * math.ceil(width * 8 / 3 / 64) if hidden_width is None else hidden_width
        self.max_length, self.rope_theta, self.norm_eps = max_length, rope_theta, norm_eps
        self.tie_embeddings, self.qkv_bias, self.bias, self.qk_norm = tie_embeddings, qkv_bias, bias, qk_norm
        self.causal, self.shift, self.convolution = causal, shift, convolution
        self.activation_checkpointing, self.attention = activation_checkpointing, attention
        self.block_length, self.head_bias = block_length, head_bias
        self.num_experts, self.experts_per_token, self.shared_width = num_experts, experts_per_token, shared_width

        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(self._block() for _ in range(num_layers))
        self.final_norm = nn.RMSNorm(width, eps=norm_eps)
        self.head = self._head()
        self.reset_parameters()

    def _head(self) -> nn.Module:
        bias = self.bias or self.head_bias
        return TiedHead(self.embedding, bias) if self.tie_embeddings else nn.Linear(self.width, self.vocab_size, bias)

    def _block(self) -> Block:
        attention = Attention(
            self.width,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.bias,
            qk_norm=self.norm_eps if self.qk_norm else None,
            kernel=self.attention,
        )
        convolution = None
        if self.convolution:
            backwards = self.causal or self.block_length is not None  # never into a block that isn't visible
            convolution = ShortConvolution(self.width, self.convolution, causal=backwards, norm_eps=self.norm_eps)
        return Block(self.width, attention, self._feed_forward(), norm_eps=self.norm_eps, convolution=convolution)

    def _feed_forward(self) -> nn.Module:
        if self.num_experts == 0:
            return SwiGLU(self.width, self.hidden_width, bias=self.bias)
        experts: list[nn.Module] = [SwiGLU(self.width, self.hidden_width) for _ in range(self.num_experts)]
        shared = SwiGLU(self.width, self.shared_width) if self.shared_width else None
        return MixtureOfExperts(self.width, experts, self.experts_per_token, shared)

    def reset_parameters(self) -> None:
        """LLaDA's "mitchell" initialisation: truncated normal at 3 standard deviations.

        The deviation is 1/sqrt(D) for embedding, head, queries, keys, values, gate and up; the two projections that
        write into the residual stream have 1/sqrt(fan-in), divided by sqrt(2 (layer + 1)). Norms start at 1,
        biases at 0.
        """
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                _init(module, self.width**-0.5)
            elif isinstance(module, ShortConvolution):
                module.reset_parameters()
            elif isinstance(module, TiedHead):
                module.tie(self.embedding)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, module in self.named_modules():
            if name.endswith(("o_proj", "down_proj")) and isinstance(module, nn.Linear):
                layer = int(name.split(".")[1])
                _init(module, (module.in_features * 2 * (layer + 1)) ** -0.5)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Logits of every position.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool or 0/1, true for real tokens.
            kwargs: as in `hidden`.

        Returns:
            (B, L, V).
        """
        return self.head(self.hidden(tokens, attention_mask=attention_mask, **kwargs))

    def hidden(
        self,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        select: Tensor | None = None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        """The body: what the head turns into logits.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool or 0/1, true for real tokens; with a cache, of the cache's whole canvas.
            segment_ids: (B, L) integers for packed rows: tokens see their own segment, and positions restart with it.
            select: (N,) flat indices into B * L. Only their results are computed after the last attention.
            cache: keys and values of the canvas that ``tokens`` are a part of; read and updated.
            region: where ``tokens`` stand on that canvas. Outputs of a region aren't shifted: what predicts a position
                is the output ``cache.lead`` places to its left.
            clean: (B, L) int64, with ``block_length``: tokens see their own block of ``tokens`` and the blocks before
                it of ``clean``, so that one pass trains all blocks; see `llada.backbones.two_copy`.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: if the row is too long, a token id has no embedding (checked on the CPU), or the combination of
                arguments can't be computed.
        """
        if clean is not None:
            return two_copy_hidden(self, tokens, clean, attention_mask, segment_ids, select)
        check_inputs(tokens, segment_ids, cache, region, vocab_size=self.vocab_size, max_length=self.max_length)
        keys = None if attention_mask is None else attention_mask.bool()
        if keys is not None and self.shift:
            check_answers_padding(self.attention)
        if keys is not None and cache is None and self._leaves_padding_out():
            packed = unpadded(tokens, keys, segment_ids, causal=self.causal)
            if packed is not None:
                x = self._body(packed.tokens, packed.positions, packed.visibility, packed.places(select))
                return packed.restored(x, select)
            keys = None
        positions = token_positions(tokens, segment_ids, region)
        reach = 1 if self.causal and cache is not None else self.block_length  # a causal mask has blocks of one token
        if reach is None:
            visibility = Visibility(keys=keys, segments=segment_ids, causal=self.causal)
        else:
            visibility = block_causal(reach, positions, keys, segment_ids, cache, region)
        wanted = _shifted(tokens, select) if self.shift and region is None else select
        x = self._body(tokens, positions, visibility, wanted, cache, region)
        return x.view(*tokens.shape, -1) if select is None else x

    def _leaves_padding_out(self) -> bool:
        """Whether nothing reads what stands at padding, which then need not be computed.

        A shifted output may be read there, a convolution looks across it, and a compiler wants fixed shapes.
        """
        needed = self.shift or self.convolution or self.block_length is not None or torch.compiler.is_compiling()
        return not needed and kernel_by_name(self.attention).unpads

    def _body(
        self,
        tokens: Tensor,
        positions: Tensor,
        visibility: Visibility,
        select: Tensor | None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """Embedding, blocks and final norm: (B, L, D), or (N, D) with ``select``."""
        turn = rotation(positions, self.head_dim, self.rope_theta, self.embedding.weight.dtype)
        checkpointing = as_checkpointing(self.activation_checkpointing) if self.training else None
        visibility.prepare(tokens)
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            cached = None if cache is None or region is None else (cache, layer, region)
            arguments = x, turn, visibility, cached, select if layer == self.num_layers - 1 else None
            x = block(*arguments) if checkpointing is None else checkpointing(layer, block, *arguments)
        return self.final_norm(x)

    def new_cache(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty key/value cache for a canvas of ``batch_size`` rows and ``length`` tokens."""
        weight = self.embedding.weight
        shape = (batch_size, self.num_kv_heads, length, self.head_dim)
        return KeyValueCache(
            self.num_layers,
            shape,
            device=weight.device,
            dtype=weight.dtype,
            lead=int(self.shift),
            ends_at_region=self.causal or self.block_length is not None,
        )

    def new_feature_cache(self, batch_size: int, length: int) -> FeatureCache:
        """An empty cache of all layers' features, for partial updates; see `FeatureCache`.

        Raises:
            ValueError: if this model has no such cache, saying why.
        """
        return FeatureCache(self, self.new_cache(batch_size, length))


def _init(module: nn.Linear | nn.Embedding, std: float) -> None:
    nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _shifted(tokens: Tensor, select: Tensor | None) -> Tensor:
    """Flat indices of the positions that predict the selected ones: each its left neighbour, position 0 itself."""
    if select is None:
        select = torch.arange(tokens.numel(), device=tokens.device)
    return select - (select % tokens.shape[1] > 0).to(select.dtype)
