"""MDLM's diffusion Transformer: a backbone that may be told the noise level.

    hidden = norm(x_last) * (1 + scale) + shift,    logits = W hidden + b

with shift and scale made from the noise level, as in the layers (`llada.backbones.adaptive`). What it shares with other
backbones is in `llada.backbones.body`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.adaptive import AdaptiveBlock, NoiseEmbedding, ZeroLinear, modulated_norm, spread
from llada.backbones.body import Body
from llada.backbones.checkpointing import Checkpointing
from llada.backbones.inputs import check_heads
from llada.backbones.layer import Context
from llada.backbones.sizes import check_positive, check_sizes


class DiffusionTransformer(Body):
    """MDLM's backbone: LayerNorm, rotary positions, multi-head attention, GELU, conditioned on sigma by adaLN.

    All modulations and the head start at zero, so the logits of a new model are zero.

    Args:
        vocab_size: number of token ids, V, the mask token's included.
        width: D.
        num_layers: number of blocks.
        num_heads: number of heads, H, a divisor of ``width``.
        cond_width: width of the embedded noise level, C.
        hidden_multiple: width of the perceptrons in multiples of ``width``.
        max_length: longest row that is accepted, in tokens.
        dropout: probability that an entry of a branch's output is dropped in training, in [0, 1). MDLM has 0.1.
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

    Examples:
        >>> import torch
        >>> from llada.backbones import DiffusionTransformer
        >>> model = DiffusionTransformer(vocab_size=9, width=8, num_layers=1, num_heads=2, cond_width=4)
        >>> tokens = torch.tensor([[1, 8, 3]])
        >>> model(tokens, sigma=torch.tensor([0.5])).shape
        torch.Size([1, 3, 9])
        >>> bool((model(tokens) == 0.0).all())  # a new one thinks every token equally likely
        True
    """

    final_norm: nn.LayerNorm

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
        check_heads(width, num_heads, None, None)
        check_sizes(vocab_size=vocab_size, num_layers=num_layers, cond_width=cond_width, max_length=max_length)
        check_sizes(hidden_multiple=hidden_multiple, block_length=block_length)
        check_positive(rope_theta=rope_theta)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1); got {dropout}")
        super().__init__()
        self.vocab_size, self.width, self.num_layers, self.num_heads = vocab_size, width, num_layers, num_heads
        self.num_kv_heads, self.head_dim = num_heads, width // num_heads
        self.cond_width, self.hidden_multiple, self.max_length = cond_width, hidden_multiple, max_length
        self.dropout, self.rope_theta = dropout, rope_theta
        self.activation_checkpointing, self.attention = activation_checkpointing, attention
        self.block_length = block_length

        self.embedding = nn.Embedding(vocab_size, width)
        self.noise_embedding = NoiseEmbedding(cond_width)
        self.blocks = nn.ModuleList(self.new_block(layer) for layer in range(num_layers))
        self.final_norm = nn.LayerNorm(width, bias=False)
        self.final_modulation = ZeroLinear(cond_width, 2 * width)
        self.head = ZeroLinear(width, vocab_size)
        self.reset_parameters()

    def new_block(self, layer: int) -> nn.Module:
        """The layer of that index, a `llada.backbones.layer.Layer`; override it for layers of your own.

        Args:
            layer: index, from 0.
        """
        hidden_width = self.hidden_multiple * self.width
        return AdaptiveBlock(
            self.width, self.num_heads, self.cond_width, hidden_width, dropout=self.dropout, kernel=self.attention
        )

    def reset_parameters(self) -> None:
        """MDLM's initialisation.

        Linear layers are uniform within 1/sqrt(fan-in), biases too; the embedding within 1/sqrt(D); norms start at 1,
        modulations and head at 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        nn.init.uniform_(self.embedding.weight, -(self.width**-0.5), self.width**-0.5)

    @override
    def hidden(self, tokens: Tensor, *, sigma: Tensor | None = None, **arguments: Any) -> Tensor:
        """The body, final modulated norm included: what the head turns into logits.

        Args:
            tokens: (B, L) int64.
            sigma: (B,) noise level -log alpha(t) of each row, finite. None: 0 for all, the model without time.
            arguments: ``attention_mask``, ``segment_ids``, ``select``, ``cache`` and ``region`` as in
                `llada.backbones.body.Body.hidden`.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: as in `llada.backbones.body.Body.hidden`, or if ``sigma`` has another shape.
        """
        if sigma is not None and sigma.shape != tokens.shape[:1]:
            raise ValueError(f"sigma must be (B,) = ({len(tokens)},), a noise level per row; got {tuple(sigma.shape)}")
        # Without time all rows share one modulation, computed once: R = 1.
        levels = torch.zeros(1, device=tokens.device) if sigma is None else sigma
        return super().hidden(tokens, condition=F.silu(self.noise_embedding(levels)), **arguments)

    @override
    def finish(self, x: Tensor, context: Context, select: Tensor | None) -> Tensor:
        assert context.condition is not None
        shift, scale = self.final_modulation(context.condition).chunk(2, dim=-1)
        length = context.rotation.cos.shape[-2]  # of a row; x may hold selected tokens of all rows
        return modulated_norm(self.final_norm, x, spread(shift, length, select), spread(scale, length, select))
