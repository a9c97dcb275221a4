"""MDLM's diffusion Transformer: a backbone that may be told the noise level.

It has the two halves of every backbone, see `llada.backbones.transformer`; the final modulated norm is in `hidden`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones.adaptive import AdaptiveBlock, NoiseEmbedding, ZeroLinear, modulated_norm, spread
from llada.backbones.attention.block_causal import block_causal
from llada.backbones.attention.kernels import kernel_by_name
from llada.backbones.attention.unpadded import unpadded
from llada.backbones.attention.visibility import Visibility
from llada.backbones.cache import KeyValueCache, Region
from llada.backbones.checkpointing import Checkpointing, as_checkpointing
from llada.backbones.inputs import check_heads, check_inputs, token_positions
from llada.backbones.rotary import rotation


class DiffusionTransformer(nn.Module):
    """MDLM's backbone: LayerNorm, rotary positions, multi-head attention, GELU, conditioned on sigma by adaLN.

    All modulations and the head start at zero, so the logits of a new model are zero.

    Args:
        vocab_size: rows of the embedding and of the head, V. The mask token needs one of them.
        width: D.
        num_layers: blocks.
        num_heads: H, a divisor of ``width``.
        cond_width: C, width of the embedded noise level.
        hidden_multiple: width of the perceptrons in multiples of ``width``.
        max_length: longest row that is accepted, in tokens.
        dropout: of both branches, in [0, 1). MDLM trains with 0.1.
        rope_theta: base of the rotary wavelengths.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations; or which
            of them, see `llada.backbones.checkpointing`.
        attention: name of the attention kernel, see `llada.backbones.attention.kernels.KERNELS`.
        block_length: a token sees its own block of so many tokens, counted from the first real token of the row, and
            all blocks before it (BD3LM); None: everything. Keys of finished blocks can then be cached exactly.

    Raises:
        ValueError: if sizes don't divide where they must, or a size is out of range.

    Reference:
        Sahoo et al., "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, and its released
        ``models/dit.py``; Arriola et al., "Block Diffusion", arXiv 2503.09573.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        cond_width: int = 128,
        hidden_multiple: int = 4,
        max_length: int = 4096,
        dropout: float = 0.0,
        rope_theta: float = 10_000.0,
        activation_checkpointing: bool | Checkpointing = False,
        attention: str = "auto",
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        check_heads(width, num_heads, None, None)
        sizes = {"num_layers": num_layers, "cond_width": cond_width, "hidden_multiple": hidden_multiple}
        for name, size in {**sizes, "block_length": block_length}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more; got {size}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1); got {dropout}")
        self.vocab_size, self.width, self.num_layers, self.num_heads = vocab_size, width, num_layers, num_heads
        self.cond_width, self.hidden_multiple, self.max_length = cond_width, hidden_multiple, max_length
        self.dropout, self.rope_theta = dropout, rope_theta
        self.activation_checkpointing, self.attention = activation_checkpointing, attention
        self.block_length = block_length

        hidden_width = hidden_multiple * width
        self.embedding = nn.Embedding(vocab_size, width)
        self.noise_embedding = NoiseEmbedding(cond_width)
        self.blocks = nn.ModuleList(
            AdaptiveBlock(width, num_heads, cond_width, hidden_width, dropout=dropout, kernel=attention)
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(width, bias=False)
        self.final_modulation = ZeroLinear(cond_width, 2 * width)
        self.head = ZeroLinear(width, vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """MDLM's initialisation.

        Linear layers are uniform within 1/sqrt(fan-in), biases too; the embedding within 1/sqrt(D); norms start at 1,
        modulations and head at 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        nn.init.uniform_(self.embedding.weight, -(self.width**-0.5), self.width**-0.5)

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
        sigma: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        select: Tensor | None = None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """The body, final modulated norm included: what the head turns into logits.

        Args:
            tokens: (B, L) int64.
            sigma: (B,) noise level -log alpha(t) of each row, finite. None: 0 for all, the model without time.
            attention_mask: (B, L) bool or 0/1, true for real tokens; with a cache, of the cache's whole canvas.
            segment_ids: (B, L) integers for packed rows: tokens see their own segment, and positions restart with it.
            select: (N,) flat indices into B * L. Only their results are computed after the last attention.
            cache: keys and values of the canvas that ``tokens`` are a part of; read and updated.
            region: where ``tokens`` stand on that canvas.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: if the row is too long, a token id has no embedding (checked on the CPU), ``sigma`` has another
                shape, or the combination of arguments can't be computed.
        """
        check_inputs(tokens, segment_ids, cache, region, vocab_size=self.vocab_size, max_length=self.max_length)
        if sigma is not None and sigma.shape != tokens.shape[:1]:
            raise ValueError(f"sigma must be (B,) = ({len(tokens)},), a noise level per row; got {tuple(sigma.shape)}")
        keys = None if attention_mask is None else attention_mask.bool()
        if keys is not None and cache is None and self._leaves_padding_out(sigma):
            packed = unpadded(tokens, keys, segment_ids)
            if packed is not None:
                x = self._body(packed.tokens, sigma, packed.positions, packed.visibility, packed.places(select))
                return packed.restored(x, select)
            keys = None
        positions = token_positions(tokens, segment_ids, region)
        visibility = Visibility(keys, segment_ids)
        if self.block_length is not None:
            visibility = block_causal(self.block_length, positions, keys, segment_ids, cache, region)
        return self._body(tokens, sigma, positions, visibility, select, cache, region)

    def _leaves_padding_out(self, sigma: Tensor | None) -> bool:
        """Whether padding need not be computed: not if a row has a modulation of its own, or shapes must be fixed."""
        needed = sigma is not None or self.block_length is not None or torch.compiler.is_compiling()
        return not needed and kernel_by_name(self.attention).unpads

    def _body(
        self,
        tokens: Tensor,
        sigma: Tensor | None,
        positions: Tensor,
        visibility: Visibility,
        select: Tensor | None,
        cache: KeyValueCache | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """Embedding, blocks and final modulated norm: (B, L, D), or (N, D) with ``select``."""
        turn = rotation(positions, self.width // self.num_heads, self.rope_theta)
        # Without time all rows share one modulation, computed once: R = 1.
        levels = torch.zeros(1, device=tokens.device) if sigma is None else sigma
        condition = F.silu(self.noise_embedding(levels))
        checkpointing = as_checkpointing(self.activation_checkpointing) if self.training else None
        visibility.prepare(tokens)
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            cached = None if cache is None or region is None else (cache, layer, region)
            arguments = x, condition, turn, visibility, cached, select if layer == self.num_layers - 1 else None
            x = block(*arguments) if checkpointing is None else checkpointing(layer, block, *arguments)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        length = tokens.shape[1]
        return modulated_norm(self.final_norm, x, spread(shift, length, select), spread(scale, length, select))

    def new_cache(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty key/value cache for a canvas of ``batch_size`` rows and ``length`` tokens."""
        weight = self.embedding.weight
        shape = (batch_size, self.num_heads, length, self.width // self.num_heads)
        return KeyValueCache(
            self.num_layers,
            shape,
            device=weight.device,
            dtype=weight.dtype,
            ends_at_region=self.block_length is not None,
        )
