"""LLaDA2.0 and 2.1: blocks, a mixture whose experts are chosen in groups, half of each head rotated.

The first ``first_k_dense_replace`` layers have a plain feed-forward layer. Queries, keys and values of a layer are
stored as one matrix, one behind the other. dFactory stacks the matrices of all experts of a layer as well
(``model_type`` ``llada2_moe_veomni``); both forms are read, and the published one is written.

No field says how long a block is: all published models have blocks of 32, which is the default of their ``generate``.

Reference: Bie et al., "LLaDA2.0", arXiv 2512.15745; "LLaDA2.1", arXiv 2602.08676; the released
``configuration_llada2_moe.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter
from llada.checkpoints.released.fields import Config, mask_id, number, whole
from llada.checkpoints.released.layout import Described
from llada.checkpoints.released.llama import LlamaStyleLayout
from llada.process import MaskingProcess

SERVED: dict[str, tuple[Any, ...]] = {
    "moe_router_enable_expert_bias": (True, None),
    "norm_head": (False, None),
    "norm_softmax": (False, None),
    "norm_topk_prob": (True, None),
    "router_dtype": ("fp32", None),
    "score_function": ("sigmoid", None),
    "use_bias": (False,),
    "use_qk_norm": (True,),
    "use_qkv_bias": (False, None),
    "use_rmsnorm": (True, None),
    "using_split_qkv_in_self_attention": (False, None),
}
OWN = {
    "embedding_dropout", "first_k_dense_replace", "moe_intermediate_size", "n_group", "num_experts",
    "num_experts_per_tok", "num_shared_experts", "output_dropout", "output_router_logits", "partial_rotary_factor",
    "rotary_dim", "routed_scaling_factor", "topk_group",
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "block_size": 32,
    "first_k_dense_replace": 0,
    "max_position_embeddings": 16384,
    "n_group": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_shared_experts": 0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "routed_scaling_factor": 2.5,
    "topk_group": 4,
    "use_bias": True,
    "use_qk_norm": True,
}
FUSED = re.compile(r"model\.layers\.(\d+)\.attention\.query_key_value\.(weight|bias)")
STACKED = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.((?:gate|up|down)_proj)")
FILES = {
    "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
    "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
    "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
}


@dataclass(frozen=True)
class LLaDA2Layout(LlamaStyleLayout):
    """The layout of LLaDA2.0 and LLaDA2.1."""

    family: str = "llada2"
    model_type: str = "llada2_moe"
    architecture: str = "LLaDA2MoeModelLM"
    qkv_bias: bool = False
    qk_norm: bool = True
    shift: bool = False
    block_field: str = "block_size"
    written: Mapping[str, Any] = field(default_factory=lambda: {"auto_map": FILES, "max_window_layers": None})
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)

    inside: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "attention.q_norm": "attention.query_layernorm",
        "attention.k_norm": "attention.key_layernorm",
        "attention.o_proj": "attention.dense",
        "attention.q_proj": "attention.query_key_value",
        "attention.k_proj": "attention.query_key_value",
        "attention.v_proj": "attention.query_key_value",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.expert_bias": "mlp.gate.expert_bias",
        "feed_forward.router.": "mlp.gate.",
        "feed_forward.shared.": "mlp.shared_experts.",
        "feed_forward.": "mlp.",
    }
    top: ClassVar[Mapping[str, str]] = {
        "model.word_embeddings.weight": "embedding.weight",
        "model.norm.weight": "final_norm.weight",
    }

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return "llada2_moe", "llada2_moe_veomni"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        arguments = self.arguments(config, OWN, **SERVED)
        config = {**self.defaults, **config}
        width = whole(config, "moe_intermediate_size")
        shared = config["num_shared_experts"]
        dense = config["first_k_dense_replace"]
        arguments |= {
            "hidden_width": width,
            "num_experts": whole(config, "num_experts"),
            "experts_per_token": whole(config, "num_experts_per_tok"),
            "shared_width": 0 if shared in (None, 0) else width * whole(config, "num_shared_experts"),
            "dense_layers": 0 if dense in (None, 0) else whole(config, "first_k_dense_replace"),
            "dense_width": None if dense in (None, 0) else whole(config, "intermediate_size"),
            "rotary_dim": _rotary_dim(config, arguments["head_dim"]),
            "router": GroupedRouter(
                whole(config, "n_group"), whole(config, "topk_group"), number(config, "routed_scaling_factor")
            ),
        }
        return Described(BidirectionalTransformer, arguments, MaskingProcess(mask_id(config, mask_token_id)))

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        config = super().write(backbone, process)
        assert isinstance(backbone, BidirectionalTransformer)
        router = backbone.router
        if backbone.num_experts == 0 or not isinstance(router, GroupedRouter):
            raise ValueError(f"the llada2 layout holds a mixture with a GroupedRouter, not router={router!r}")
        if backbone.shared_width % backbone.hidden_width:
            raise ValueError(
                f"the llada2 layout holds whole shared experts, but shared_width={backbone.shared_width} isn't a "
                f"multiple of hidden_width={backbone.hidden_width}"
            )
        rotated = backbone.head_dim if backbone.rotary_dim is None else backbone.rotary_dim
        return config | {
            "embedding_dropout": 0.0,
            "first_k_dense_replace": backbone.dense_layers,
            "head_dim": backbone.head_dim,
            "intermediate_size": backbone.dense_width or backbone.hidden_width,
            "moe_intermediate_size": backbone.hidden_width,
            "moe_router_enable_expert_bias": True,
            "n_group": router.num_groups,
            "norm_head": False,
            "norm_topk_prob": True,
            "num_experts": backbone.num_experts,
            "num_experts_per_tok": backbone.experts_per_token,
            "num_shared_experts": backbone.shared_width // backbone.hidden_width,
            "output_dropout": 0.0,
            "output_router_logits": False,
            "partial_rotary_factor": rotated / backbone.head_dim,
            "rotary_dim": rotated,
            "routed_scaling_factor": router.scale,
            "router_dtype": "fp32",
            "score_function": "sigmoid",
            "topk_group": router.groups_per_token,
            "use_bias": False,
            "use_qk_norm": True,
            "use_qkv_bias": False,
            "use_sliding_window": False,
        }

    @override
    def holds(self, name: str, backbone: nn.Module) -> tuple[str, ...]:
        fused = FUSED.fullmatch(name)
        if fused is not None:
            return tuple(f"blocks.{fused[1]}.attention.{part}_proj.{fused[2]}" for part in "qkv")
        stacked = STACKED.fullmatch(name)
        if stacked is not None:
            experts = range(getattr(backbone, "num_experts", 0))
            return tuple(f"blocks.{stacked[1]}.feed_forward.experts.{expert}.{stacked[2]}.weight" for expert in experts)
        return super().holds(name, backbone)

    @override
    def ours(self, name: str) -> str:
        return name if FUSED.fullmatch(name) or STACKED.fullmatch(name) else super().ours(name)


def _rotary_dim(config: Config, head_dim: int) -> int:
    """How many dimensions of a head are rotated.

    Raises:
        ValueError: if the two fields that say so differ.
    """
    rotated = int(head_dim * number(config, "partial_rotary_factor"))
    if config.get("rotary_dim") not in (None, rotated):
        raise ValueError(
            f"config.json has rotary_dim={config['rotary_dim']}, but partial_rotary_factor="
            f"{config['partial_rotary_factor']} of head_dim={head_dim} are {rotated}"
        )
    return rotated
