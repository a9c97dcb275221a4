"""LLaMA's names: Dream, LLaDA-MoE, and autoregressive LLaMA and Qwen checkpoints as the start of a diffusion model.

An autoregressive checkpoint predicts the next token, so as a diffusion model it is read with ``shift``: the output at
position i - 1 predicts position i. Its mask token has to be chosen.

Reference: the released ``configuration_dream.py`` (arXiv 2508.15487); LLaDA-MoE (arXiv 2509.24389); Hugging Face's
Llama, Qwen2 and Qwen3 configurations.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from llada.backbones import BidirectionalTransformer
from llada.interop.layout import Config, Described, Layout, field, mask_id, only_defaults, refuse_others
from llada.process import MaskingProcess

USED = {
    "attention_bias",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
    # without effect on what is computed from stored weights
    "layer_types",
    "max_window_layers",
    "pretraining_tp",
}
SERVED: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0.0,),
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "use_mrope": (False,),
    "use_sliding_window": (False,),
}
IGNORED_UNLESS_ON = {"sliding_window"}
THEIRS = {
    "attention_norm": "input_layernorm",
    "attention.": "self_attn.",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.router.": "mlp.gate.",
    "feed_forward.": "mlp.",
}
TOP = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "final_norm.weight"}


@dataclass(frozen=True)
class LlamaStyleLayout(Layout):
    """The names of LLaMA, which many families share.

    Args:
        family: "dream", "qwen2", "qwen3" or "llama".
        model_type: its ``model_type`` in ``config.json``.
        architecture: its class.
        qkv_bias: whether its queries, keys and values have biases.
        qk_norm: whether queries and keys are normalised per head.
    """

    family: str
    model_type: str
    architecture: str
    qkv_bias: bool
    qk_norm: bool = False

    @property
    def name(self) -> str:
        """See `Layout`."""
        return self.family

    def matches(self, config: Config) -> bool:
        """See `Layout`."""
        return config.get("model_type") == self.model_type and "hidden_size" in config

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """See `Layout`."""
        return Described(
            BidirectionalTransformer,
            {**self.arguments(config), "shift": True},
            MaskingProcess(mask_id(config, mask_token_id)),
        )

    def arguments(self, config: Config, **served: tuple[Any, ...]) -> dict[str, Any]:
        """What the families have in common."""
        rope = config.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"config.json has rope_parameters={rope!r}, but only the default rotation can be loaded")
        used = USED | IGNORED_UNLESS_ON | {"rope_parameters"}
        refuse_others(config, used, {**SERVED, "attention_bias": (self.qkv_bias, False, None), **served})
        width, heads = field(config, "hidden_size"), field(config, "num_attention_heads")
        theta = config.get("rope_theta", rope.get("rope_theta", 10_000.0))
        return {
            "vocab_size": field(config, "vocab_size"),
            "width": width,
            "num_layers": field(config, "num_hidden_layers"),
            "num_heads": heads,
            "num_kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or width // heads,
            "hidden_width": field(config, "intermediate_size"),
            "max_length": field(config, "max_position_embeddings"),
            "rope_theta": float(theta),
            "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
            "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
        }

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """See `Layout`."""
        config = self.common(backbone, process, num_experts=0, shift=True)
        assert isinstance(backbone, BidirectionalTransformer)
        config["intermediate_size"] = backbone.hidden_width
        return config

    def common(self, backbone: nn.Module, process: MaskingProcess, **expected: Any) -> Config:
        """The fields that the families have in common."""
        if not isinstance(backbone, BidirectionalTransformer):
            raise ValueError(f"the {self.name} layout holds a BidirectionalTransformer, not {type(backbone).__name__}")
        same = {"qkv_bias": self.qkv_bias, "qk_norm": self.qk_norm, "bias": False, "head_bias": False}
        only_defaults(backbone, self.name, convolution=0, causal=False, block_length=None, **same, **expected)
        return {
            "architectures": [self.architecture],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": backbone.width,
            **({} if backbone.head_dim * backbone.num_heads == backbone.width else {"head_dim": backbone.head_dim}),
            "initializer_range": 0.02,
            "mask_token_id": process.mask_token_id,
            "max_position_embeddings": backbone.max_length,
            "model_type": self.model_type,
            "num_attention_heads": backbone.num_heads,
            "num_hidden_layers": backbone.num_layers,
            "num_key_value_heads": backbone.num_kv_heads,
            "rms_norm_eps": backbone.norm_eps,
            "rope_scaling": None,
            "rope_theta": backbone.rope_theta,
            "tie_word_embeddings": backbone.tie_embeddings,
            "torch_dtype": "float32",
            "use_cache": False,
            "vocab_size": backbone.vocab_size,
        }

    def ours(self, name: str) -> str | None:
        """See `Layout`."""
        if name in TOP:
            return TOP[name]
        if name.startswith("lm_head."):
            return "head." + name.removeprefix("lm_head.")
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if found is None or found[2].endswith("rotary_emb.inv_freq"):
            return name if found is None else None
        rest = found[2]
        for ours, theirs in THEIRS.items():
            if rest.startswith(theirs):
                return f"blocks.{found[1]}.{ours}{rest.removeprefix(theirs)}"
        return name

    def theirs(self, name: str) -> str:
        """See `Layout`."""
        for theirs, ours in TOP.items():
            if name == ours:
                return theirs
        if name.startswith("head."):
            return "lm_head." + name.removeprefix("head.")
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if found is not None:
            for ours, theirs in THEIRS.items():
                if found[2].startswith(ours):
                    return f"model.layers.{found[1]}.{theirs}{found[2].removeprefix(ours)}"
        raise ValueError(f"the {self.name} layout has no name for the parameter {name}")


@dataclass(frozen=True)
class LLaDAMoELayout(LlamaStyleLayout):
    """LLaDA-MoE-7B-A1B: LLaMA's names with a mixture of experts, and outputs that aren't shifted."""

    family: str = "llada_moe"
    model_type: str = "llada"
    architecture: str = "LLaDAMoEModelLM"
    qkv_bias: bool = False
    qk_norm: bool = True

    def matches(self, config: Config) -> bool:
        """See `Layout`. The released configuration calls itself "llada", like the dense model."""
        return config.get("model_type") in ("llada", "lladamoe", "llada_moe") and "num_experts" in config

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """See `Layout`."""
        config = dict(config)
        experts, chosen = config.pop("num_experts"), field(config, "num_experts_per_tok")
        width = config.pop("expert_intermediate_size", None) or field(config, "intermediate_size")
        for name in ("num_experts_per_tok", "router_aux_loss_coef", "dense_intermediate_size", "output_router_logits"):
            config.pop(name, None)
        config["intermediate_size"] = width
        norms = (True, None) if "qk_layernorm" in config else (None,)
        arguments = self.arguments(
            config,
            norm_topk_prob=(False, None),
            qk_layernorm=norms,
            shared_expert_intermediate_size=(None, 0),
            moe_layer_freq=(None, 1, [1] * config.get("num_hidden_layers", 0)),
            clip_qkv=(None,),
            routed_scaling_factor=(None, 1, 1.0),
            partial_rotary_factor=(None, 1, 1.0),
        )
        arguments |= {"num_experts": experts, "experts_per_token": chosen}
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """See `Layout`."""
        config = self.common(backbone, process, shift=False)
        assert isinstance(backbone, BidirectionalTransformer)
        if backbone.num_experts == 0:
            raise ValueError("the llada_moe layout holds a mixture of experts, but num_experts=0; use layout='llada'")
        return config | {
            "expert_intermediate_size": backbone.hidden_width,
            "num_experts": backbone.num_experts,
            "num_experts_per_tok": backbone.experts_per_token,
            "norm_topk_prob": False,
            "qk_layernorm": True,
        }


DREAM = LlamaStyleLayout("dream", "Dream", "DreamModel", qkv_bias=True)
QWEN2 = LlamaStyleLayout("qwen2", "qwen2", "Qwen2ForCausalLM", qkv_bias=True)
QWEN3 = LlamaStyleLayout("qwen3", "qwen3", "Qwen3ForCausalLM", qkv_bias=False, qk_norm=True)
LLAMA = LlamaStyleLayout("llama", "llama", "LlamaForCausalLM", qkv_bias=False)
