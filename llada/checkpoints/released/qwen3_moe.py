"""Qwen3's mixture of experts, as a start, and SDAR's model of blocks with the same body (SDAR-30B-A3B).

The experts are chosen by a softmax, and their weights add up to 1 where ``norm_topk_prob`` is set, as in all released
files, though not in the official default.

Reference: Hugging Face's Qwen3Moe configuration; SDAR, arXiv 2510.06303.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from typing_extensions import override

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import SoftmaxRouter
from llada.checkpoints.released.autoregressive import WINDOW
from llada.checkpoints.released.fields import Config, flag, mask_id, whole
from llada.checkpoints.released.layout import Described
from llada.checkpoints.released.llama import LlamaStyleLayout
from llada.process import MaskingProcess

SERVED: dict[str, tuple[Any, ...]] = {"decoder_sparse_step": (1, None), "mlp_only_layers": ([], None)}
OWN = {
    "intermediate_size", "moe_intermediate_size", "norm_topk_prob", "num_experts", "num_experts_per_tok",
    "output_router_logits", "router_aux_loss_coef",
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Qwen3MoELayout(LlamaStyleLayout):
    """The layout of a family with the body of Qwen3's mixture."""

    qkv_bias: bool = False
    qk_norm: bool = True
    written: Mapping[str, Any] = field(default_factory=lambda: WINDOW)
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        config = {**config, "num_experts": config.get("num_experts") or config.get("num_local_experts")}
        config = {name: value for name, value in config.items() if value is not None and name != "num_local_experts"}
        arguments = self.arguments(config, OWN, **SERVED)
        asked = self._asked(config)
        config = {**self.defaults, **config}
        arguments |= {
            "hidden_width": whole(config, "moe_intermediate_size"),
            "num_experts": whole(config, "num_experts"),
            "experts_per_token": whole(config, "num_experts_per_tok"),
            "router": SoftmaxRouter(normalised=flag(config, "norm_topk_prob")),
        }
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)), asked)

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        config = super().write(backbone, process)
        assert isinstance(backbone, BidirectionalTransformer)
        router = backbone.router or SoftmaxRouter()
        if backbone.num_experts == 0 or not isinstance(router, SoftmaxRouter):
            raise ValueError(f"the {self.name} layout holds a mixture with a SoftmaxRouter, not router={router!r}")
        return config | {
            "decoder_sparse_step": 1,
            "intermediate_size": backbone.experts_per_token * backbone.hidden_width,
            "mlp_only_layers": [],
            "moe_intermediate_size": backbone.hidden_width,
            "norm_topk_prob": router.normalised,
            "num_experts": backbone.num_experts,
            "num_experts_per_tok": backbone.experts_per_token,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }


QWEN3_MOE = Qwen3MoELayout("qwen3_moe", "qwen3_moe", "Qwen3MoeForCausalLM", autoregressive=True)
SDAR_MOE = Qwen3MoELayout(
    "sdar_moe",
    "sdar_moe",
    "SDARMoeForCausalLM",
    shift=False,
    body="qwen3_moe",
    block_field="block_size",
    known=("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"),
)
