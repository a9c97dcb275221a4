"""LLaDA's Transformer: LLaMA's layers without the causal mask.

    x <- x + attention(norm(x)),    x <- x + feed_forward(norm(x))

What it shares with other backbones is in `llada.backbones.body`.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.body import Body
from llada.backbones.checkpointing import Checkpointing
from llada.backbones.convolution import ShortConvolution
from llada.backbones.drafting import Drafting
from llada.backbones.features import FeatureCache
from llada.backbones.inputs import check_heads, check_mixture
from llada.backbones.layers import Attention, Block, SwiGLU, TiedHead
from llada.backbones.mixture import MixtureOfExperts
from llada.backbones.router import Router
from llada.backbones.shadow import shadow_hidden
from llada.backbones.sizes import check_positive, check_sizes
from llada.backbones.two_copy import two_copy_hidden


class BidirectionalTransformer(Body):
    """RMSNorm, rotary positions, grouped-query attention and SwiGLU; every token sees every token.

    Args:
        vocab_size: number of token ids, V, the mask token's included.
        width: D.
        num_layers: number of blocks.
        num_heads: number of query heads, H.
        num_kv_heads: number of key/value heads, G, a divisor of ``num_heads``; None for as many as query heads.
        head_dim: width of a head, d; None for ``width / num_heads``.
        hidden_width: width inside the feed-forward layer; None for the multiple of 64 at or above 8/3 of ``width``.
        max_length: longest row that is accepted, in tokens.
        rope_theta: base of the rotary wavelengths.
        norm_eps: epsilon of the RMSNorms.
        tie_embeddings: whether the head shares the embedding's matrix.
        qkv_bias: biases on queries, keys and values.
        bias: biases on the other projections, the head included.
        head_bias: a bias on the head, 0 at first; the callback `UnigramBias` starts it at the log frequencies.
        qk_norm: whether queries and keys are normalised per head before rotation.
        num_experts: number of experts of a mixture in place of each feed-forward layer, each ``hidden_width`` wide; 0
            for no mixture.
        experts_per_token: number of experts that compute a token.
        shared_width: width of an additional expert that computes every token; 0 for none.
        router: how experts are chosen and weighted, see `llada.backbones.router`; None for LLaDA-MoE's softmax.
        dense_layers: how many layers, from the first, have a plain feed-forward layer in place of the mixture (LLaDA2).
        dense_width: width inside of those; None for ``hidden_width``.
        rotary_dim: how many dimensions of a head are rotated, from the first (LLaDA2: half); None for all.
        causal: see only earlier tokens; for the autoregressive twin and for converted checkpoints.
        shift: the output at position i is read at i - 1 (models adapted from next-token prediction, such as Dream).
            Position 0 reads its own.
        convolution: number of tokens in the window of a depthwise convolution in front of each attention, odd; 0 for
            none (LLaDA). It ends at the token itself if ``causal`` or ``block_length`` is set, and else is centred.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations; or which
            of them, see `llada.backbones.checkpointing`.
        attention: name of the attention kernel, see `llada.backbones.attention.kernels.KERNELS`.
        block_length: a token sees its own block of so many tokens, counted from the first real token of the row, and
            all blocks before it (LLaDA2, BD3LM); None: everything. Keys of finished blocks can then be cached exactly.
            With ``causal`` a token sees none behind it, and blocks are those of two-copy training (I-DLM).
        feed_forward: makes the feed-forward layer of each block from ``width``, such as a class of your own or a
            `functools.partial` of it; a module from (..., D) to (..., D). None: SwiGLU, or the mixture of experts.

    For blocks of another kind override `new_block`.

    Raises:
        ValueError: if sizes don't divide where they must.

    Reference:
        Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, section 2.2 and appendix B.

    Examples:
        >>> import torch
        >>> from llada import BidirectionalTransformer
        >>> model = BidirectionalTransformer(vocab_size=9, width=8, num_layers=1, num_heads=2, num_kv_heads=1).eval()
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> model(tokens).shape
        torch.Size([1, 3, 9])
        >>> later = tokens.clone()
        >>> later[0, 2] = 4
        >>> torch.equal(model(tokens)[0, 0], model(later)[0, 0])  # the first place sees the last
        False
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
        router: Router | None = None,
        dense_layers: int = 0,
        dense_width: int | None = None,
        rotary_dim: int | None = None,
        causal: bool = False,
        shift: bool = False,
        convolution: int = 0,
        activation_checkpointing: bool | Checkpointing = False,
        attention: str = "auto",
        block_length: int | None = None,
        feed_forward: Callable[[int], nn.Module] | None = None,
    ) -> None:
        check_heads(width, num_heads, num_kv_heads, head_dim, rotary_dim)
        check_sizes(vocab_size=vocab_size, num_layers=num_layers, hidden_width=hidden_width, max_length=max_length)
        check_sizes(block_length=block_length, experts_per_token=experts_per_token)
        check_sizes(least=0, num_experts=num_experts, shared_width=shared_width, convolution=convolution)
        check_sizes(least=0, dense_layers=dense_layers, dense_width=dense_width)
        check_positive(rope_theta=rope_theta)
        check_positive(norm_eps=norm_eps, or_zero=True)
        check_mixture(num_experts, feed_forward, router=router, dense_layers=dense_layers, dense_width=dense_width)
        super().__init__()
        self.vocab_size, self.width, self.num_layers, self.num_heads = vocab_size, width, num_layers, num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = width // num_heads if head_dim is None else head_dim
        self.hidden_width = 64 * math.ceil(width * 8 / 3 / 64) if hidden_width is None else hidden_width
        self.max_length, self.rope_theta, self.norm_eps = max_length, rope_theta, norm_eps
        self.tie_embeddings, self.qkv_bias, self.bias, self.qk_norm = tie_embeddings, qkv_bias, bias, qk_norm
        self.causal, self.shift, self.convolution = causal, shift, convolution
        self.activation_checkpointing, self.attention = activation_checkpointing, attention
        self.block_length, self.head_bias, self.feed_forward = block_length, head_bias, feed_forward
        self.num_experts, self.experts_per_token, self.shared_width = num_experts, experts_per_token, shared_width
        self.router, self.dense_layers, self.dense_width, self.rotary_dim = (
            router,
            dense_layers,
            dense_width,
            rotary_dim,
        )

        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(self.new_block(layer) for layer in range(num_layers))
        self.final_norm = nn.RMSNorm(width, eps=norm_eps)
        self.head = self._head()
        self.reset_parameters()

    def _head(self) -> nn.Module:
        bias = self.bias or self.head_bias
        return TiedHead(self.embedding, bias) if self.tie_embeddings else nn.Linear(self.width, self.vocab_size, bias)

    def new_block(self, layer: int) -> nn.Module:
        """The layer of that index, a `llada.backbones.layer.Layer`; override it for layers of your own.

        Args:
            layer: index, from 0.
        """
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
        return Block(self.width, attention, self._feed_forward(layer), norm_eps=self.norm_eps, convolution=convolution)

    def _feed_forward(self, layer: int) -> nn.Module:
        if self.feed_forward is not None:
            return self.feed_forward(self.width)
        if self.num_experts == 0:
            return SwiGLU(self.width, self.hidden_width, bias=self.bias)
        if layer < self.dense_layers:
            return SwiGLU(self.width, self.dense_width or self.hidden_width, bias=self.bias)
        experts: list[nn.Module] = [SwiGLU(self.width, self.hidden_width) for _ in range(self.num_experts)]
        shared = SwiGLU(self.width, self.shared_width) if self.shared_width else None
        return MixtureOfExperts(self.width, experts, self.experts_per_token, shared, self.router)

    def reset_parameters(self) -> None:
        """LLaDA's "mitchell" initialisation: truncated normal at 3 standard deviations.

        The deviation is 1/sqrt(D) for embedding, head, queries, keys, values, gate and up; the two projections that
        write into the residual stream have 1/sqrt(fan-in), divided by sqrt(2 (layer + 1)). Norms start at 1, biases at
        0. Other modules, such as layers of your own, do what their own ``reset_parameters`` does.
        """
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                _init(module, self.width**-0.5)
            elif isinstance(module, TiedHead):
                module.tie(self.embedding)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for name, module in self.named_modules():
            if name.endswith(("o_proj", "down_proj")) and isinstance(module, nn.Linear):
                layer = int(name.split(".")[1])
                _init(module, (module.in_features * 2 * (layer + 1)) ** -0.5)

    @override
    def hidden(
        self, tokens: Tensor, *, clean: Tensor | None = None, shadow: Tensor | None = None, **arguments: Any
    ) -> Tensor:
        """The body: what the head turns into logits.

        Args:
            tokens: (B, L) int64.
            clean: (B, L) int64, with ``block_length``: tokens see their own block of ``tokens`` and the blocks before
                it of ``clean``, so that one pass trains all blocks; see `llada.backbones.two_copy`.
            shadow: (B, S) int64 columns: the last S of ``tokens`` are masks beside the canvas, each in the place of one
                of its tokens; see `llada.backbones.shadow`. ``attention_mask`` is of all of them.
            arguments: ``attention_mask``, ``segment_ids``, ``select``, ``cache`` and ``region`` as in
                `llada.backbones.body.Body.hidden`; the last two not with ``clean`` or ``shadow``.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: as in `llada.backbones.body.Body.hidden`, or for ``clean`` without ``block_length``.
        """
        if clean is not None:
            return two_copy_hidden(self, tokens, clean, **arguments)
        if shadow is not None:
            return shadow_hidden(self, tokens, shadow, **arguments)
        return super().hidden(tokens, **arguments)

    def new_feature_cache(self, batch_size: int, length: int) -> FeatureCache:
        """An empty cache of all layers' features, for partial updates; see `FeatureCache`.

        Raises:
            ValueError: if this model has no such cache, saying why.
        """
        return FeatureCache(self, self.new_cache(batch_size, length))

    def new_drafting(self, batch_size: int, length: int, guesses: int) -> Drafting:
        """Passes over a canvas that verify guessed tokens and guess what follows; see `Drafting`.

        Raises:
            ValueError: if this model can't, saying why.
        """
        return Drafting(self, batch_size, length, guesses)


def _init(module: nn.Linear | nn.Embedding, std: float) -> None:
    nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
