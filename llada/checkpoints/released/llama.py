"""LLaMA's names, which many families share; autoregressive LLaMA and Qwen checkpoints as a start.

An autoregressive checkpoint predicts the next token, so as a diffusion model it is read with ``shift``: the output at
position i - 1 predicts position i. Its mask token has to be chosen. A folder that calls itself autoregressive and names
a mask token is a diffusion model under a plain name. Whether that one is shifted, nothing in it says, so the caller has
to: families differ (Dream is, dLLM's A2D isn't), and the wrong choice gives wrong logits without any error.

Reference: Hugging Face's Llama, Qwen2 and Qwen3 configurations.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.arithmetic import is_plain_rotation, shown
from llada.checkpoints.released.fields import Config, check_others, check_uniform, flag, mask_id, number, whole
from llada.checkpoints.released.layout import Described, Layout
from llada.process import MaskingProcess

SHIFT = "right_shift_logits"
"""The field that says whether outputs are read one place to the left; dLLM's word for it."""
USED = {
    SHIFT,
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "layer_types",
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
THEIRS: Mapping[str, str] = {
    "attention_norm": "input_layernorm",
    "attention.": "self_attn.",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.router.": "mlp.gate.",
    "feed_forward.shared.": "mlp.shared_expert.",
    "feed_forward.": "mlp.",
}
TOP: Mapping[str, str] = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "final_norm.weight"}
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
        autoregressive: whether it predicts the next token; only without a mask token it is known to be shifted.
        body: ``model_type`` of the autoregressive family with this body, under which a folder is known by its class.
        block_field: the field with the number of positions per block; "" for a family without blocks.
        known: fields of its configuration that have no effect.
        written: fields of its configuration beyond the common ones.
        defaults: what its official code takes for fields that are absent, where that isn't LLaMA's default.
    """

    family: str
    model_type: str
    architecture: str
    qkv_bias: bool
    qk_norm: bool = False
    shift: bool = True
    autoregressive: bool = False
    body: str = ""
    block_field: str = ""
    known: tuple[str, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    inside: ClassVar[Mapping[str, str]] = THEIRS
    """Our names within a layer and theirs, by their beginnings; the first that fits counts."""
    top: ClassVar[Mapping[str, str]] = TOP
    """Their names outside of the layers, and ours."""

    @property
    @override
    def name(self) -> str:
        return self.family

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return (self.model_type.lower(),)

    @property
    @override
    def telltale(self) -> str:
        return "hidden_size"

    @override
    def matches(self, config: Config) -> bool:
        classes = config.get("architectures")
        renamed = config.get("model_type") == self.body and isinstance(classes, list) and self.architecture in classes
        return super().matches(config) or (bool(self.body) and renamed and self.telltale in config)

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        arguments = self.arguments(config) | {"hidden_width": whole(config, "intermediate_size")}
        process = MaskingProcess(mask_id(config, mask_token_id))
        return Described(BidirectionalTransformer, arguments, process, self._asked(config))

    def _asked(self, config: Config) -> dict[str, str]:
        """What the configuration leaves open."""
        asked = {}
        if self.autoregressive and SHIFT not in config and config.get("mask_token_id") not in (None, -1):
            asked["shift"] = (
                f"config.json is that of an autoregressive {self.name} model, yet it has a mask_token_id, and no field "
                f"{SHIFT!r} that says where its outputs are read. Say shift=True (one place to the left, as Dream and "
                "models adapted from next-token prediction) or shift=False (at the position itself, as LLaDA and "
                "dLLM's A2D): --backbone shift=true or --backbone shift=false"
            )
        if self.block_field and {**self.defaults, **config}.get(self.block_field) is None:
            asked["block_length"] = (
                f"config.json has no field {self.block_field!r}, the number of positions per block; say it: "
                "block_length=4 (--backbone block_length=4)"
            )
        return asked

    def arguments(self, config: Config, used: Collection[str] = (), **served: tuple[Any, ...]) -> dict[str, Any]:
        """What the families have in common.

        Args:
            config: content of ``config.json``.
            used: fields of the family's own that are read elsewhere.
            served: fields of the family's own with the values that it can serve.
        """
        rope = config.get("rope_parameters") or {}
        if not is_plain_rotation(rope):
            raise ValueError(
                f"config.json has rope_parameters={shown(rope)}, but only the default rotation can be loaded"
            )
        theta = number({"rope_theta": 10_000.0, **self.defaults, **rope, **config}, "rope_theta")
        config = {**self.defaults, **config}
        layers = whole(config, "num_hidden_layers")
        check_uniform(config, "layer_types", "full_attention", layers)
        biases: dict[str, tuple[Any, ...]] = {"attention_bias": (self.qkv_bias, False, None)}
        check_others(config, {*USED, *self.known, *used, self.block_field}, {**SERVED, **biases, **served})
        width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
        return {
            "vocab_size": whole(config, "vocab_size"),
            "width": width,
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": whole(config, "num_key_value_heads", heads),
            "head_dim": whole(config, "head_dim", width // heads),
            "max_length": whole(config, "max_position_embeddings"),
            "rope_theta": theta,
            "norm_eps": number(config, "rms_norm_eps", 1e-6, zero=True),
            "tie_embeddings": flag(config, "tie_word_embeddings", False),
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "shift": flag(config, SHIFT, self.shift),
            **({"block_length": whole(config, self.block_field, 1)} if self.block_field else {}),
        }

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        config = self.common(backbone, process)
        assert isinstance(backbone, BidirectionalTransformer)
        config["intermediate_size"] = backbone.hidden_width
        if "max_window_layers" in config:
            config["max_window_layers"] = backbone.num_layers
        if self.autoregressive:
            config[SHIFT] = backbone.shift
        if self.block_field:
            config[self.block_field] = backbone.block_length
        return config

    def common(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """The fields that the families have in common."""
        if not isinstance(backbone, BidirectionalTransformer):
            raise ValueError(f"the {self.name} layout holds a BidirectionalTransformer, not {type(backbone).__name__}")
        usual_heads = backbone.head_dim * backbone.num_heads == backbone.width and "head_dim" not in self.defaults
        return {
            "architectures": [self.architecture],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": backbone.width,
            **({} if usual_heads else {"head_dim": backbone.head_dim}),
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

    @override
    def ours(self, name: str) -> str:
        if name in self.top:
            return self.top[name]
        if name.startswith("lm_head."):
            return "head." + name.removeprefix("lm_head.")
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if found is not None:
            for ours, theirs in self.inside.items():
                if found[2].startswith(theirs):
                    return f"blocks.{found[1]}.{ours}{found[2].removeprefix(theirs)}"
        return name

    @override
    def theirs(self, name: str) -> str:
        for theirs, ours in self.top.items():
            if name == ours:
                return theirs
        if name.startswith("head."):
            return "lm_head." + name.removeprefix("head.")
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if found is not None:
            for ours, theirs in self.inside.items():
                if found[2].startswith(ours):
                    return f"model.layers.{found[1]}.{theirs}{found[2].removeprefix(ours)}"
        raise ValueError(f"the {self.name} layout has no name for the parameter {name}")

    @override
    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """Old checkpoints hold the rotary wavelengths of each layer."""
        if WAVELENGTHS.fullmatch(name) is None:
            return None
        assert isinstance(backbone, BidirectionalTransformer)
        return backbone.rope_theta ** -(torch.arange(0, backbone.head_dim, 2) / backbone.head_dim)
