"""The names of MDLM's diffusion Transformer, which the releases of SEDD, UDLM, Duo and GIDD share.

They differ in what stands in front of all names, in the fields of the configuration, and in tables of the rotation that
are stored beside the weights.

Reference: the released ``models/dit.py`` of arXiv 2406.07524, which goes back to SEDD's ``model/transformer.py``.
"""

import re
from abc import ABC
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.fields import Config, number, whole
from llada.checkpoints.released.layout import Layout

THEIRS = {
    "embedding.weight": "vocab_embed.embedding",
    "noise_embedding.": "sigma_map.",
    "final_norm.": "output_layer.norm_final.",
    "final_modulation.": "output_layer.adaLN_modulation.",
    "head.": "output_layer.linear.",
    "attention.qkv.": "attn_qkv.",
    "attention.o_proj.": "attn_out.",
    "attention_norm.": "norm1.",
    "feed_forward_norm.": "norm2.",
    "feed_forward.": "mlp.",
    "modulation.": "adaLN_modulation.",
}
PREFIX = "backbone."
"""In front of all names in the releases that wrap the network, and in training checkpoints."""
WAVELENGTHS = "rotary_emb.inv_freq"


class DiTLayout(Layout, ABC):
    """A family of diffusion Transformers.

    Attributes:
        prefix: what stands in front of all names.
        words: its fields for width, number of layers, number of heads, width of the condition, longest row and dropout.
    """

    prefix: ClassVar[str] = PREFIX
    words: ClassVar[tuple[str, ...]] = ("hidden_dim", "n_blocks", "n_heads", "cond_dim", "model_length", "dropout")

    def arguments(self, config: Config, vocab_size: int) -> dict[str, Any]:
        """Arguments of the backbone, but for the length of blocks.

        Args:
            config: content of ``config.json``, or the part of it with these fields.
            vocab_size: rows of the embedding.
        """
        width, layers, heads, condition, length, dropout = self.words
        return {
            "vocab_size": vocab_size,
            "width": whole(config, width),
            "num_layers": whole(config, layers),
            "num_heads": whole(config, heads),
            "cond_width": whole(config, condition),
            "max_length": whole(config, length),
            "dropout": number(config, dropout, 0.1, zero=True),
        }

    def fields(self, backbone: nn.Module) -> Config:
        """What the configuration says of a backbone's sizes.

        Raises:
            ValueError: if it is of another class, or has blocks.
        """
        if not isinstance(backbone, DiffusionTransformer):
            raise ValueError(f"the {self.name} layout holds a DiffusionTransformer, not a {type(backbone).__name__}")
        sizes = (
            backbone.width,
            backbone.num_layers,
            backbone.num_heads,
            backbone.cond_width,
            backbone.max_length,
            backbone.dropout,
        )
        return dict(zip(self.words, sizes, strict=True))

    @override
    def ours(self, name: str) -> str:
        head, rest = _split(name.removeprefix(self.prefix))
        for ours, theirs in THEIRS.items():
            if rest.startswith(theirs):
                return head + ours + rest.removeprefix(theirs)
        return name

    @override
    def theirs(self, name: str) -> str:
        head, rest = _split(name)
        for ours, theirs in THEIRS.items():
            if rest.startswith(ours):
                return self.prefix + head + theirs + rest.removeprefix(ours)
        raise ValueError(f"the {self.name} layout has no name for the parameter {name}")

    @override
    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """Most store the wavelengths of the rotation as a buffer."""
        if name != self.prefix + WAVELENGTHS:
            return None
        assert isinstance(backbone, DiffusionTransformer)
        head_dim = backbone.width // backbone.num_heads
        return backbone.rope_theta ** -(torch.arange(0, head_dim, 2) / head_dim)

    @override
    def constants(self, backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
        wavelengths = self.constant(self.prefix + WAVELENGTHS, backbone)
        assert wavelengths is not None
        yield self.prefix + WAVELENGTHS, wavelengths


def _split(name: str) -> tuple[str, str]:
    """``blocks.3.`` and the rest; the first is empty for what isn't in a block."""
    found = re.match(r"blocks\.\d+\.", name)
    return ("", name) if found is None else (found[0], name[found.end() :])
