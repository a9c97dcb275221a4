"""LLaMA's names, which many families share; autoregressive LLaMA and Qwen checkpoints as a start.

An autoregressive checkpoint predicts the next token, so as a diffusion model it is read with ``shift``: the output at
position i - 1 predicts position i. Its mask token has to be chosen.

Reference: Hugging Face's Llama, Qwen2 and Qwen3 configurations.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.fields import Config, flag, mask_id, number, refuse_others, whole
from llada.checkpoints.released.layout import Described, Layout, only_defaults
from llada.process import MaskingProcess

USED = {
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
    # without effect on what is computed from stored weights
    "max_window_layers",
    "pretraining_tp",
    "sliding_window",  # without effect unless use_sliding_window is on
}
SERVED: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0.0, None),
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}
THEIRS = {
    "attention_norm": "input_layernorm",
    "attention.": "self_attn.",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.router.": "mlp.gate.",
    "feed_forward.shared.": "mlp.shared_expert.",
    "feed_forward.": "mlp.",
}
TOP = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "final_norm.weight"}
WAVELENGTHS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True)
class LlamaStyleLayout(Layout):
    """The names of LLaMA, with biases and norms where a family has them.

    Args:
        family: how users name it.
        model_type: its ``model_type`` in ``config.json``.
        architecture: its class.
        qkv_bias: whether its queries, keys and values have biases.
        qk_norm: whether queries and keys are normalised per head.
        shift: whether the output at position i is read at i - 1.
        written: fields of its configuration beyond the common ones.
    """

    family: str
    model_type: str
    architecture: str
    qkv_bias: bool
    qk_norm: bool = False
    shift: bool = True
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """See `Layout`."""
        return self.family

    def matches(self, config: Config) -> bool:
        """See `Layout`."""
        return config.get("model_type") == self.model_type and "hidden_size" in config

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """See `Layout`."""
        arguments = self.arguments(config) | {"hidden_width": whole(config, "intermediate_size")}
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    def arguments(self, config: Config, **served: tuple[Any, ...]) -> dict[str, Any]:
        """What the families have in common; ``served`` are fields of the family's own with the values it can serve."""
        rope = config.get("rope_parameters") or {}
        plain = isinstance(rope, dict) and rope.get("rope_type", "default") == "default"
        if not plain or rope.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"config.json has rope_parameters={rope!r}, but only the default rotation can be loaded")
        layers = whole(config, "num_hidden_layers")
        full: tuple[Any, ...] = (None, [], ["full_attention"] * layers)
        own = {"attention_bias": (self.qkv_bias, False, None), "layer_types": full}
        refuse_others(config, USED, {**SERVED, **own, **served})
        width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
        return {
            "vocab_size": whole(config, "vocab_size"),
            "width": width,
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": whole(config, "num_key_value_heads", heads),
            "head_dim": whole(config, "head_dim", width // heads),
            "max_length": whole(config, "max_position_embeddings"),
            "rope_theta": number({"rope_theta": 10_000.0, **rope, **config}, "rope_theta"),
            "norm_eps": number(config, "rms_norm_eps", 1e-6, zero=True),
            "tie_embeddings": flag(config, "tie_word_embeddings", False),
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "shift": self.shift,
        }

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """See `Layout`."""
        config = self.common(backbone, process, num_experts=0)
        assert isinstance(backbone, BidirectionalTransformer)
        config["intermediate_size"] = backbone.hidden_width
        if "max_window_layers" in config:
            config["max_window_layers"] = backbone.num_layers
        return config

    def common(self, backbone: nn.Module, process: MaskingProcess, **expected: Any) -> Config:
        """The fields that the families have in common; ``expected`` as in `only_defaults`."""
        if not isinstance(backbone, BidirectionalTransformer):
            raise ValueError(f"the {self.name} layout holds a BidirectionalTransformer, not {type(backbone).__name__}")
        only_defaults(process, self.name, time_conditioned=False)
        same = {"qkv_bias": self.qkv_bias, "qk_norm": self.qk_norm, "shift": self.shift}
        none = {"bias": False, "head_bias": False, "convolution": 0, "causal": False, "block_length": None}
        only_defaults(backbone, self.name, **same, **none, **expected)
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
            **self.written,
        }

    def ours(self, name: str) -> str:
        """See `Layout`."""
        if name in TOP:
            return TOP[name]
        if name.startswith("lm_head."):
            return "head." + name.removeprefix("lm_head.")
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if found is not None:
            for ours, theirs in THEIRS.items():
                if found[2].startswith(theirs):
                    return f"blocks.{found[1]}.{ours}{found[2].removeprefix(theirs)}"
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

    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """See `Layout`. Old checkpoints hold the rotary wavelengths of each layer."""
        if WAVELENGTHS.fullmatch(name) is None:
            return None
        assert isinstance(backbone, BidirectionalTransformer)
        return backbone.rope_theta ** -(torch.arange(0, backbone.head_dim, 2) / backbone.head_dim)


WINDOW = {"max_window_layers": None, "sliding_window": None, "use_sliding_window": False}
QWEN2 = LlamaStyleLayout("qwen2", "qwen2", "Qwen2ForCausalLM", qkv_bias=True, written=WINDOW)
QWEN3 = LlamaStyleLayout("qwen3", "qwen3", "Qwen3ForCausalLM", qkv_bias=False, qk_norm=True, written=WINDOW)
LLAMA = LlamaStyleLayout("llama", "llama", "LlamaForCausalLM", qkv_bias=False)
