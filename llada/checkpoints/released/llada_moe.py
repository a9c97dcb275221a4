"""LLaDA-MoE-7B-A1B: LLaMA's names with a mixture of experts and normalised queries and keys; outputs aren't shifted.

Reference: the released ``configuration_lladamoe.py`` of arXiv 2509.24389.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.fields import Config, flag, mask_id, whole
from llada.checkpoints.released.layout import Described
from llada.checkpoints.released.llama import LlamaStyleLayout
from llada.process import MaskingProcess

MODEL_TYPES = ("llada", "lladamoe", "llada_moe")
SERVED: dict[str, tuple[Any, ...]] = {
    "clip_qkv": (None,),
    "moe_router_enable_expert_bias": (None, False),
    "moe_router_score_function": (None, "softmax"),
    "norm_topk_prob": (None, False),
    "partial_rotary_factor": (None, 1),
    "routed_scaling_factor": (None, 1),
    "router_num_group": (None,),
    "router_topk_group": (None,),
}
WITHOUT_EFFECT = {"dense_intermediate_size", "output_router_logits", "router_aux_loss_coef"}
OWN = {"expert_intermediate_size", "num_experts", "num_experts_per_tok", "shared_expert_intermediate_size"}


@dataclass(frozen=True)
class LLaDAMoELayout(LlamaStyleLayout):
    """The layout of LLaDA-MoE."""

    family: str = "llada_moe"
    model_type: str = "llada"
    architecture: str = "LLaDAMoEModelLM"
    qkv_bias: bool = False
    qk_norm: bool = True
    shift: bool = False

    def matches(self, config: Config) -> bool:
        """See `Layout`. The released configuration calls itself "llada", like the dense model."""
        return config.get("model_type") in MODEL_TYPES and "num_experts" in config

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """See `Layout`."""
        flag({"qk_layernorm": True, **config}, "qk_layernorm")
        every_layer: tuple[Any, ...] = (None, 1, [], [1] * whole(config, "num_hidden_layers"))
        common = {name: value for name, value in config.items() if name not in OWN | WITHOUT_EFFECT}
        arguments = self.arguments(common, moe_layer_freq=every_layer, qk_layernorm=(True,), **SERVED)
        shared = config.get("shared_expert_intermediate_size")
        arguments |= {
            "hidden_width": whole(config, "expert_intermediate_size", config.get("intermediate_size")),
            "num_experts": whole(config, "num_experts"),
            "experts_per_token": whole(config, "num_experts_per_tok"),
            "shared_width": 0 if shared in (None, 0) else whole(config, "shared_expert_intermediate_size"),
        }
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """See `Layout`."""
        config = self.common(backbone, process)
        assert isinstance(backbone, BidirectionalTransformer)
        if backbone.num_experts == 0:
            raise ValueError("the llada_moe layout holds a mixture of experts, but num_experts=0; use layout='llada'")
        return config | {
            "attention_bias": False,
            "clip_qkv": None,
            "dense_intermediate_size": backbone.experts_per_token * backbone.hidden_width,
            "expert_intermediate_size": backbone.hidden_width,
            "moe_layer_freq": [1] * backbone.num_layers,
            "moe_router_enable_expert_bias": False,
            "moe_router_score_function": "softmax",
            "norm_topk_prob": False,
            "num_experts": backbone.num_experts,
            "num_experts_per_tok": backbone.experts_per_token,
            "output_router_logits": False,
            "partial_rotary_factor": 1,
            "qk_layernorm": True,
            "routed_scaling_factor": 1,
            "router_aux_loss_coef": 0.01,
            "router_num_group": None,
            "router_topk_group": None,
            "shared_expert_intermediate_size": backbone.shared_width or None,
        }
