"""LLaDA-8B (Base, Instruct, 1.5), LLaDA-1B and iLLaDA: OLMo's names, block type "llama".

Reference: the released ``configuration_llada.py`` and checkpoints of arXiv 2502.09992.
"""

import re
from dataclasses import dataclass

from torch import nn
from typing_extensions import override

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.fields import Config, check_others, field, flag, mask_id, number, whole
from llada.checkpoints.released.layout import Described, Layout
from llada.process import MaskingProcess

USED = {
    "d_model",
    "embedding_size",
    "include_bias",
    "include_qkv_bias",
    "max_sequence_length",
    "mlp_hidden_size",
    "mlp_ratio",
    "multi_query_attention",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
    "weight_tying",
    # without effect on what is computed from stored weights
    "alibi_bias_max",
    "attention_layer_norm_with_affine",
    "flash_attention",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "precision",
}
SERVED = {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_dropout": (0.0,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "embedding_dropout": (0.0,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "residual_dropout": (0.0,),
    "rope": (True,),
    "rope_full_precision": (True,),
    "scale_logits": (False,),
}
REQUIRED = ("activation_type", "block_type", "layer_norm_type", "rope")
"""Absent, these mean something else in the official code than what can be served."""
THEIRS = {
    "attention_norm": "attn_norm",
    "attention.q_proj": "q_proj",
    "attention.k_proj": "k_proj",
    "attention.v_proj": "v_proj",
    "attention.o_proj": "attn_out",
    "feed_forward_norm": "ff_norm",
    "feed_forward.gate_proj": "ff_proj",
    "feed_forward.up_proj": "up_proj",
    "feed_forward.down_proj": "ff_out",
}
OURS = {theirs: ours for ours, theirs in THEIRS.items()}
TOP = {"wte.weight": "embedding.weight", "ln_f.weight": "final_norm.weight"}
PREFIX = "model.transformer."


ALWAYS: Config = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "use_cache": False,
}
"""Fields that the released configurations have and every model here agrees with."""


@dataclass(frozen=True)
class LLaDALayout(Layout):
    """The layout of LLaDA's released checkpoints."""

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return ("llada",)

    @property
    @override
    def telltale(self) -> str:
        return "d_model"

    @property
    @override
    def name(self) -> str:
        return "llada"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, USED, SERVED)
        for name in REQUIRED:
            field(config, name)
        width, heads = whole(config, "d_model"), whole(config, "n_heads")
        bias, tied = flag(config, "include_bias"), flag(config, "weight_tying")
        if bias and tied:
            raise ValueError("config.json has include_bias=True and weight_tying=True, which can't be loaded together")
        arguments = {
            "vocab_size": whole(config, "embedding_size", whole(config, "vocab_size")),
            "width": width,
            "num_layers": whole(config, "n_layers"),
            "num_heads": heads,
            "num_kv_heads": _kv_heads(config, heads),
            "hidden_width": whole(config, "mlp_hidden_size", int(number(config, "mlp_ratio", 4) * width)),
            "max_length": whole(config, "max_sequence_length"),
            "rope_theta": number(config, "rope_theta", 10_000.0),
            "norm_eps": number(config, "rms_norm_eps", 1e-5, zero=True),
            "tie_embeddings": tied,
            "bias": bias,
            "qkv_bias": bias or flag(config, "include_qkv_bias", False),
        }
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        if not isinstance(backbone, BidirectionalTransformer):
            raise ValueError(f"the llada layout holds a BidirectionalTransformer, not a {type(backbone).__name__}")
        if backbone.bias and (backbone.tie_embeddings or not backbone.qkv_bias):
            raise ValueError(
                "the llada layout can't say bias=True with tie_embeddings=True or qkv_bias=False; keep the Lightning "
                "checkpoint"
            )
        return ALWAYS | {
            "d_model": backbone.width,
            "embedding_size": backbone.vocab_size,
            "include_bias": backbone.bias,
            "include_qkv_bias": backbone.qkv_bias,
            "mask_token_id": process.mask_token_id,
            "max_sequence_length": backbone.max_length,
            "mlp_hidden_size": backbone.hidden_width,
            "n_heads": backbone.num_heads,
            "n_kv_heads": backbone.num_kv_heads,
            "n_layers": backbone.num_layers,
            "rms_norm_eps": backbone.norm_eps,
            "rope_theta": backbone.rope_theta,
            "vocab_size": backbone.vocab_size,
            "weight_tying": backbone.tie_embeddings,
        }

    @override
    def ours(self, name: str) -> str:
        if not name.startswith(PREFIX):
            return name
        name = name.removeprefix(PREFIX)
        if name in TOP:
            return TOP[name]
        if name.startswith("ff_out."):  # two things are called ff_out: this one is the head
            return "head." + name.removeprefix("ff_out.")
        found = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(weight|bias)", name)
        if found is None or found[2] not in OURS:
            return name
        return f"blocks.{found[1]}.{OURS[found[2]]}.{found[3]}"

    @override
    def theirs(self, name: str) -> str:
        for theirs, ours in TOP.items():
            if name == ours:
                return PREFIX + theirs
        if name.startswith("head."):
            return PREFIX + "ff_out." + name.removeprefix("head.")
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None or found[2] not in THEIRS:
            raise ValueError(f"the llada layout has no name for the parameter {name}")
        return f"{PREFIX}blocks.{found[1]}.{THEIRS[found[2]]}.{found[3]}"


def _kv_heads(config: Config, heads: int) -> int:
    many_queries = flag(config, "multi_query_attention", False)
    implied = 1 if many_queries else heads
    found = whole(config, "n_kv_heads", implied)
    if many_queries and found != 1:
        raise ValueError(f"config.json has multi_query_attention=True, but n_kv_heads={found}")
    return found
