"""LLaDA-MoE-7B-A1B: LLaMA's names with a mixture of experts and normalised queries and keys; outputs aren't shifted.

Reference: the released ``configuration_lladamoe.py`` of arXiv 2509.24389.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from typing_extensions import override

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.fields import Config, check_uniform, flag, mask_id, whole
from llada.checkpoints.released.layout import Described
from llada.checkpoints.released.llama import LlamaStyleLayout
from llada.process import MaskingProcess

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
WITHOUT_EFFECT = {"moe_layer_freq", "dense_intermediate_size", "output_router_logits", "router_aux_loss_coef"}
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
    # The official default of rope_theta isn't a base: the field must be there.
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"rms_norm_eps": 1e-5, "rope_theta": -1})

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return "llada", "lladamoe", "llada_moe"  # the first, which is the dense model's, in the released configuration

    @property
    @override
    def telltale(self) -> str:
        return "num_experts"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        flag(config, "qk_layernorm")  # absent, there is none in the official code
        check_uniform(config, "moe_layer_freq", 1, whole(config, "num_hidden_layers"))
        arguments = self.arguments(config, OWN | WITHOUT_EFFECT, qk_layernorm=(True,), **SERVED)
        shared = config.get("shared_expert_intermediate_size")
        arguments |= {
            "hidden_width": whole(config, "expert_intermediate_size", config.get("intermediate_size")),
            "num_experts": whole(config, "num_experts"),
            "experts_per_token": whole(config, "num_experts_per_tok"),
            "shared_width": 0 if shared in (None, 0) else whole(config, "shared_expert_intermediate_size"),
        }
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
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
