"""MDLM's diffusion Transformer, in the form of its Hugging Face checkpoints; BD3LM's release shares the names.

With a block as long as the row, BD3LM is the same network. With shorter ones, a token sees its own block and the clean
blocks before it, which is what ``block_length`` computes: the model as it decodes, block by block. (In training, its
official code reads all blocks at once, from a clean copy of the row beside the noisy one.)

Reference: the released ``configuration_mdlm.py`` of arXiv 2406.07524; ``configuration_bd3lm.py`` of arXiv 2503.09573.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.fields import Config, check_others, flag, mask_id, number, whole
from llada.checkpoints.released.layout import Described, Layout
from llada.noise import LinearSchedule
from llada.process import MaskingProcess

USED = {
    "attn_backend",  # of the official code
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
WAVELENGTHS = PREFIX + "rotary_emb.inv_freq"


@dataclass(frozen=True)
class MDLMLayout(Layout):
    """The layout of MDLM's Hugging Face checkpoints."""

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return ("mdlm", "bd3lm")

    @property
    @override
    def telltale(self) -> str:
        return "hidden_dim"

    @property
    @override
    def name(self) -> str:
        return "mdlm"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, USED, SERVED)
        length, timed = whole(config, "model_length"), flag(config, "time_conditioning", False)
        block = whole(config, "block_size", 1 if str(config["model_type"]).lower() == "bd3lm" else length)
        if block != length and (timed or length % block):
            raise ValueError(
                f"config.json has block_size={block}, but blocks must divide model_length={length} and can't be "
                "time-conditioned"
            )
        vocab_size = whole(config, "vocab_size")
        arguments = {
            "vocab_size": vocab_size,
            "width": whole(config, "hidden_dim"),
            "num_layers": whole(config, "n_blocks"),
            "num_heads": whole(config, "n_heads"),
            "cond_width": whole(config, "cond_dim"),
            "max_length": length,
            "dropout": number(config, "dropout", 0.1, zero=True),
            "block_length": None if block == length else block,
        }
        process = MaskingProcess(
            mask_id({"mask_token_id": vocab_size - 1, **config}, mask_token_id),
            LinearSchedule(eps=1e-3),
            time_conditioned=timed,
            predicts_mask=False,
        )
        return Described(DiffusionTransformer, arguments, process)

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        if not isinstance(backbone, DiffusionTransformer):
            raise ValueError(f"the mdlm layout holds a DiffusionTransformer, not a {type(backbone).__name__}")
        if process.mask_token_id != backbone.vocab_size - 1:
            raise ValueError(
                f"the mdlm layout has its mask at the end of the vocabulary, {backbone.vocab_size - 1}, "
                f"not at {process.mask_token_id}"
            )
        config = {
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
        return config if backbone.block_length is None else config | _of_bd3lm(backbone.block_length)

    @override
    def ours(self, name: str) -> str:
        head, rest = _split(name.removeprefix(PREFIX))
        for ours, theirs in THEIRS.items():
            if rest.startswith(theirs):
                return head + ours + rest.removeprefix(theirs)
        return name

    @override
    def theirs(self, name: str) -> str:
        head, rest = _split(name)
        for ours, theirs in THEIRS.items():
            if rest.startswith(ours):
                return PREFIX + head + theirs + rest.removeprefix(ours)
        raise ValueError(f"the mdlm layout has no name for the parameter {name}")

    @override
    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """MDLM stores the rotary wavelengths as a buffer."""
        if name != WAVELENGTHS:
            return None
        assert isinstance(backbone, DiffusionTransformer)
        head_dim = backbone.width // backbone.num_heads
        return backbone.rope_theta ** -(torch.arange(0, head_dim, 2) / head_dim)

    @override
    def constants(self, backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
        wavelengths = self.constant(WAVELENGTHS, backbone)
        assert wavelengths is not None
        yield WAVELENGTHS, wavelengths


def _of_bd3lm(block_length: int) -> Config:
    """What BD3LM's configuration has beside MDLM's, or otherwise."""
    return {
        "architectures": ["BD3LM"],
        "attn_backend": "sdpa",
        "auto_map": {"AutoConfig": "configuration_bd3lm.BD3LMConfig", "AutoModelForMaskedLM": "modeling_bd3lm.BD3LM"},
        "block_size": block_length,
        "cross_attn": True,
        "model_type": "bd3lm",
        "sampling_eps_max": 0.999,
        "sampling_eps_min": 1e-3,
        "var_min": True,
    }


def _split(name: str) -> tuple[str, str]:
    """``blocks.3.`` and the rest; the first is empty for what isn't in a block."""
    found = re.match(r"blocks\.\d+\.", name)
    return ("", name) if found is None else (found[0], name[found.end() :])
