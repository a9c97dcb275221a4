"""What a configuration leaves out has the value that the official code takes for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter, SoftmaxRouter
from llada.checkpoints.released import LAYOUTS
from llada.checkpoints.released.families import layout_of
from llada.module import DiffusionLM
from llada.process import MaskingProcess

LLAMA = {
    "hidden_act": "silu", "hidden_size": 512, "intermediate_size": 64, "mask_token_id": 3, "max_position_embeddings": 9,
    "num_attention_heads": 32, "num_hidden_layers": 2, "vocab_size": 11,
}  # fmt: skip
LLADA = {
    "activation_type": "silu", "block_type": "llama", "d_model": 48, "include_bias": False, "layer_norm_type": "rms",
    "mask_token_id": 3, "max_sequence_length": 9, "model_type": "llada", "n_heads": 4, "n_layers": 2, "rope": True,
    "vocab_size": 11, "weight_tying": False,
}  # fmt: skip
MOE = {
    "expert_intermediate_size": 16, "model_type": "llada", "num_experts": 4, "num_experts_per_tok": 2,
    "qk_layernorm": True, "rope_theta": 5e4, **{k: v for k, v in LLAMA.items() if k != "intermediate_size"},
}  # fmt: skip
LLADA2 = {
    "hidden_act": "silu", "hidden_size": 512, "mask_token_id": 3, "model_type": "llada2_moe",
    "moe_intermediate_size": 16, "num_attention_heads": 32, "num_hidden_layers": 2, "num_key_value_heads": 4,
    "use_bias": False, "vocab_size": 11,
}  # fmt: skip
MDLM = {
    "cond_dim": 8, "hidden_dim": 16, "model_length": 12, "model_type": "mdlm", "n_blocks": 2, "n_heads": 2,
    "vocab_size": 11,
}  # fmt: skip
FROM_LLAMA = {"rope_theta": 10_000.0, "norm_eps": 1e-6, "tie_embeddings": False, "num_kv_heads": 32, "head_dim": 16}

# name -> configuration without its optional fields, and what the official configuration classes make of that:
# transformers' Llama, Qwen2 and Qwen3, configuration_dream.py, configuration_llada.py, configuration_lladamoe.py,
# configuration_mdlm.py, configuration_bd3lm.py, configuration_llada2_moe.py, configuration_udlm.py, GIDD's
# configuration_dit.py, and the configurations of SEDD's and Duo's training.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": ({"model_type": "llama", **LLAMA}, {**FROM_LLAMA, "qkv_bias": False, "qk_norm": False, "shift": True}),
    "llama of few heads": (
        {"model_type": "llama", **LLAMA, "num_attention_heads": 8},
        {**FROM_LLAMA, "num_kv_heads": 8, "head_dim": 64},
    ),
    "qwen2": ({"model_type": "qwen2", **LLAMA}, {**FROM_LLAMA, "qkv_bias": True, "qk_norm": False, "shift": True}),
    "qwen3": ({"model_type": "qwen3", **LLAMA}, {**FROM_LLAMA, "head_dim": 128, "qkv_bias": False, "qk_norm": True}),
    "qwen2 with nulls": (
        {"model_type": "qwen2", **LLAMA, "num_attention_heads": 8, "num_key_value_heads": None},
        {**FROM_LLAMA, "num_kv_heads": 8, "head_dim": 64},
    ),
    "dream": ({"model_type": "Dream", **LLAMA}, {**FROM_LLAMA, "qkv_bias": True, "qk_norm": False, "shift": True}),
    "a2d-qwen2": ({"model_type": "a2d-qwen2", **LLAMA}, {**FROM_LLAMA, "qkv_bias": True, "shift": False}),
    "a2d-qwen3": ({"model_type": "a2d-qwen3", **LLAMA}, {"head_dim": 128, "qk_norm": True, "shift": False}),
    "a2d-llama": ({"model_type": "a2d-llama", **LLAMA}, {**FROM_LLAMA, "qkv_bias": False, "shift": False}),
    "sdar": ({"model_type": "sdar", **LLAMA, "block_size": 4}, {"head_dim": 128, "shift": False, "block_length": 4}),
    "fast_dllm": ({"model_type": "Fast_dLLM_Qwen", **LLAMA}, {"qkv_bias": True, "shift": True, "block_length": 32}),
    "llada_moe": (
        MOE,
        {"norm_eps": 1e-5, "tie_embeddings": False, "num_kv_heads": 32, "head_dim": 16, "shared_width": 0},
    ),
    "qwen3_moe": (
        {"model_type": "qwen3_moe", **LLAMA},
        {**FROM_LLAMA, "num_kv_heads": 4, "num_experts": 128, "experts_per_token": 8, "hidden_width": 768,
         "router": SoftmaxRouter(), "shift": True},
    ),
    "sdar_moe": ({"model_type": "sdar_moe", **LLAMA, "block_size": 4}, {"num_kv_heads": 4, "block_length": 4}),
    "llada2": (
        LLADA2,
        {"norm_eps": 1e-5, "rope_theta": 10_000.0, "head_dim": 16, "rotary_dim": 8, "num_experts": 16,
         "experts_per_token": 2, "shared_width": 0, "dense_layers": 0, "max_length": 16384, "block_length": 32,
         "router": GroupedRouter(8, 4, 2.5), "shift": False},
    ),
    "llada": (
        LLADA,
        {
            "rope_theta": 10_000.0, "norm_eps": 1e-5, "num_kv_heads": 4, "hidden_width": 192, "qkv_bias": False,
            "vocab_size": 11,
        },
    ),
    "llada of one key head": ({**LLADA, "multi_query_attention": True}, {"num_kv_heads": 1}),
    "mdlm": (MDLM, {"dropout": 0.1, "block_length": None}),
    "bd3lm": ({**MDLM, "model_type": "bd3lm"}, {"dropout": 0.1, "block_length": 1}),
    "udlm": ({**MDLM, "model_type": "udlm"}, {"dropout": 0.1}),
    "duo": ({**MDLM, "model_type": "duo"}, {"dropout": 0.1}),
    "gidd": (
        {"hidden_size": 16, "max_seq_len": 12, "model_type": "dit", "num_attention_heads": 2, "num_hidden_layers": 2,
         "timestep_cond_dim": 8, "vocab_size": 11, "mask_token_id": 10},
        {"dropout": 0.0},
    ),
    "sedd": (
        {"graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "tokens": 10,
         "model": {"cond_dim": 8, "hidden_size": 16, "length": 12, "n_blocks": 2, "n_heads": 2}},
        {"dropout": 0.1, "vocab_size": 11},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), CASES.values(), ids=CASES)
def test_absent_fields_have_the_official_defaults(config: dict[str, Any], expected: dict[str, Any]) -> None:
    described = layout_of(config).read(config, None)
    assert {name: described.arguments[name] for name in expected} == expected
    timed = layout_of(config).name in ("udlm", "duo", "gidd", "sedd")
    assert described.process.time_conditioned == timed


def test_every_layout_is_in_the_table() -> None:
    assert {layout_of(config).name for config, _ in CASES.values()} == {layout.name for layout in LAYOUTS}


def test_mdlms_mask_is_at_the_end() -> None:
    assert layout_of(MDLM).read(MDLM, None).process.mask_token_id == 10


@pytest.mark.parametrize("field", ["rope_theta", "qk_layernorm"])
def test_llada_moes_have_no_usable_default(field: str) -> None:
    config = {name: value for name, value in MOE.items() if name != field}
    with pytest.raises(ValueError, match=field):
        layout_of(config).read(config, None)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3"])
def test_the_table_against_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = {key: value for key, value in LLAMA.items() if key != "mask_token_id"}
    official = getattr(transformers, f"{name}Config")(**config)
    arguments = CASES[name.lower()][1]
    assert official.num_key_value_heads == arguments["num_kv_heads"]
    assert (getattr(official, "head_dim", None) or 512 // 32) == arguments["head_dim"]
    assert (official.rms_norm_eps, official.tie_word_embeddings) == (arguments["norm_eps"], False)
    theta = getattr(official, "rope_theta", None) or official.rope_parameters["rope_theta"]
    assert theta == arguments["rope_theta"]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "dream", "llada_moe"])
def test_both_spellings_of_the_rotary_base_give_the_same_model(name: str, tmp_path: Path) -> None:
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    arguments = layout.read({**CASES[name][0], "num_key_value_heads": 2, "num_attention_heads": 2, "head_dim": 8,
                             "hidden_size": 16, "rope_theta": 1e6}, None).arguments  # fmt: skip
    torch.manual_seed(0)
    model = DiffusionLM(BidirectionalTransformer(**arguments), MaskingProcess(3)).eval()
    model.save_pretrained(tmp_path / "old", layout=layout)
    DiffusionLM(model.backbone, model.process).save_pretrained(tmp_path / "new", layout=layout)
    config = json.loads((tmp_path / "new/config.json").read_text())
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    (tmp_path / "new/config.json").write_text(json.dumps(config))
    old, new = (DiffusionLM.from_pretrained(tmp_path / folder) for folder in ("old", "new"))
    ids = torch.arange(9)[None]
    assert theta == new.backbone.rope_theta == old.backbone.rope_theta == 1e6
    assert torch.equal(new(ids), old(ids))
    assert torch.equal(new(ids), model(ids))
    new.save_pretrained(tmp_path / "again")
    assert DiffusionLM.from_pretrained(tmp_path / "again").backbone.rope_theta == 1e6
