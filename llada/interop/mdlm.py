"""MDLM's diffusion Transformer, in the form of its Hugging Face checkpoints.

BD3LM's release shares the names. With a block as long as the row it is the same network and loads; shorter blocks read
a clean copy of the row beside the noisy one, which the network here doesn't have, and are refused.

Reference: the released ``configuration_mdlm.py`` of arXiv 2406.07524; ``configuration_bd3lm.py`` of arXiv 2503.09573.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llada.backbones import DiffusionTransformer
from llada.interop.layout import Config, Described, Layout, field, mask_id, only_defaults, refuse_others
from llada.noise import LinearSchedule
from llada.process import MaskingProcess

USED = {
    "attn_backend",
    "block_size",
    "cond_dim",
    "dropout",
    "hidden_dim",
    "model_length",
    "n_blocks",
    "n_heads",
    "sampling_eps_max",
    "sampling_eps_min",
    "time_conditioning",
    "var_min",
    "vocab_size",
}
SERVED = {"cross_attn": (False, True), "adaln": (True,), "causal": (False,), "causal_attention": (False,)}
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


@dataclass(frozen=True)
class MDLMLayout(Layout):
    """The layout of MDLM's Hugging Face checkpoints."""

    @property
    def name(self) -> str:
        """See `Layout`."""
        return "mdlm"

    def matches(self, config: Config) -> bool:
        """See `Layout`."""
        return config.get("model_type") in ("mdlm", "bd3lm")

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """See `Layout`."""
        refuse_others(config, USED, SERVED)
        length = field(config, "model_length")
        if config.get("block_size", length) != length:
            raise ValueError(
                f"config.json has block_size={config['block_size']}, but only block_size = model_length = {length} can "
                "be loaded: shorter blocks attend to a clean copy of the row, which this network doesn't have"
            )
        vocab_size = field(config, "vocab_size")
        arguments = {
            "vocab_size": vocab_size,
            "width": field(config, "hidden_dim"),
            "num_layers": field(config, "n_blocks"),
            "num_heads": field(config, "n_heads"),
            "cond_width": field(config, "cond_dim"),
            "max_length": length,
            "dropout": float(config.get("dropout", 0.0)),
        }
        process = MaskingProcess(
            mask_id({"mask_token_id": vocab_size - 1, **config}, mask_token_id),
            LinearSchedule(eps=1e-3),
            time_conditioned=bool(config.get("time_conditioning", False)),
            predicts_mask=False,
        )
        return Described(DiffusionTransformer, arguments, process)

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """See `Layout`."""
        if not isinstance(backbone, DiffusionTransformer):
            raise ValueError(f"the mdlm layout holds a DiffusionTransformer, not a {type(backbone).__name__}")
        only_defaults(backbone, self.name, hidden_multiple=4, rope_theta=10_000.0)
        if process.mask_token_id != backbone.vocab_size - 1:
            raise ValueError(
                f"the mdlm layout has its mask at the end of the vocabulary, {backbone.vocab_size - 1}, "
                f"not at {process.mask_token_id}"
            )
        return {
            "architectures": ["MDLM"],
            "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig", "AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
            "cond_dim": backbone.cond_width,
            "dropout": backbone.dropout,
            "hidden_dim": backbone.width,
            "model_length": backbone.max_length,
            "model_type": "mdlm",
            "n_blocks": backbone.num_layers,
            "n_heads": backbone.num_heads,
            "return_dict": True,
            "time_conditioning": process.time_conditioned,
            "torch_dtype": "float32",
            "vocab_size": backbone.vocab_size,
        }

    def ours(self, name: str) -> str | None:
        """See `Layout`. The rotary frequencies follow from the configuration."""
        name = name.removeprefix(PREFIX)
        if name == "rotary_emb.inv_freq":
            return None
        head, rest = _split(name)
        for ours, theirs in THEIRS.items():
            if rest.startswith(theirs):
                return head + ours + rest.removeprefix(theirs)
        return name

    def theirs(self, name: str) -> str:
        """See `Layout`."""
        head, rest = _split(name)
        for ours, theirs in THEIRS.items():
            if rest.startswith(ours):
                return PREFIX + head + theirs + rest.removeprefix(ours)
        raise ValueError(f"the mdlm layout has no name for the parameter {name}")

    def derived(self, backbone: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The rotary frequencies, which MDLM stores as a buffer."""
        assert isinstance(backbone, DiffusionTransformer)
        head_dim = backbone.width // backbone.num_heads
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        yield PREFIX + "rotary_emb.inv_freq", backbone.rope_theta**-exponents


def _split(name: str) -> tuple[str, str]:
    """``blocks.3.`` and the rest; the first is empty for what isn't in a block."""
    found = re.match(r"blocks\.\d+\.", name)
    return ("", name) if found is None else (found[0], name[found.end() :])
