"""Fields of config.json that no layout knows: those that change the arithmetic are refused, the rest is left aside."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.checkpoints.released.arithmetic import is_neutral, kind_of
from llada.module import DiffusionLM
from tests.golden_models import GOLDEN

FOLDERS = {name: GOLDEN / f"{name}/checkpoint" for name in ("llada-tiny", "dream-tiny", "mdlm-dit-tiny")}
LEFT_ASIDE: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "attn_implementation": "flash_attention_2",
    "flash_attn_varlen": True,
    "use_flash_attn": True,
    "gradient_checkpointing": True,
    "activation_checkpointing": "whole_block",
    "trust_remote_code": True,
    "_commit_hash": "abc",
    "name_or_path": "x",
    "unsloth_fixed": True,
    "unsloth_version": "2025.1",
    "is_llama_config": True,
    "transformers.js_config": {"dtype": "q4"},
    "ep_size": 8,
    "_from_model_config": True,
    "router_aux_loss_coef": 0.1,
    "hidden_dropout": 0.1,
    "max_grad_norm": 1.0,
    "experts_implementation": "eager",
    "vocab_padded": 12,
    "fuse_rms_norm": True,
    "attention_softmax_in_fp32": True,
}
SILENT: dict[str, Any] = {
    "max_length": 20,
    "temperature": 1.0,
    "top_k": 50,
    "id2label": {"0": "LABEL_0"},
    "tokenizer_class": "LLaDATokenizer",
    "chunk_size_feed_forward": 4,
    "quantization_config": None,
    "is_decoder": False,
    "block_sizes": [],
    "logit_scale": 1.0,
    "embedding_multiplier": 1,
    "position_embedding_type": "rope",
    "rope_interleaved": False,
    "softcap": None,
    "rope_kind": {"rope_type": "default"},
}
REFUSED: dict[str, tuple[Any, str]] = {
    "rope_interleaved": (True, "position"),
    "rope_ratio": (8, "position"),
    "rotary_pct": (0.25, "position"),
    "longrope_factors": ([1.0, 2.0], "position"),
    "use_alibi": (True, "position"),
    "no_rope_layers": ([1], "position"),
    "norm_type": ("layernorm", "norm"),
    "use_sandwich_norm": (True, "norm"),
    "post_norm": (True, "norm"),
    "attention_sinks": (4, "attention mask"),
    "window_size": (512, "attention mask"),
    "is_causal": (True, "attention mask"),
    "attention_chunk_size": (8192, "attention mask"),
    "dual_chunk_attention_config": ({"chunk_size": 9}, "attention mask"),
    "attn_types": (["full_attention", "sliding"], "attention mask"),
    "query_pre_attn_scalar": (256, "attention mask"),
    "blocks_size": (4, "block"),
    "bd_size": (32, "block"),
    "canvas_length": (256, "block"),
    "quantization_config": ({"bits": 4}, "quantisation"),
    "load_in_4_bits": (True, "quantisation"),
    "final_logit_softcapping": (30.0, "scale"),
    "logits_scaling": (8.0, "scale"),
    "scale_emb": (12, "scale"),
    "lm_head_multiplier": (0.5, "scale"),
    "dim_model_base": (256, "scale"),
    "clip_qkv": (8.0, "scale"),
    "residual_weight": (0.22, "residual"),
    "use_parallel_residual": (True, "residual"),
    "num_local_experts": (8, "experts"),
    "norm_topk_prob": (True, "norm"),
    "moe_every": (2, "experts"),
    "hidden_activation": ("gelu", "activation"),
    "act_fn": ("relu2", "activation"),
    "mlp_type": ("geglu", "activation"),
    "short_conv": (3, "mixer"),
    "self_conditioning": (True, "condition"),
    "shift_labels": (True, "shift"),
}


def with_fields(name: str, folder: Path, fields: dict[str, Any]) -> Path:
    """A folder of links, with another configuration."""
    folder.mkdir()
    for path in FOLDERS[name].iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    config = json.loads((FOLDERS[name] / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_warning_names_them_all_once(name: str, tmp_path: Path) -> None:
    folder = with_fields(name, tmp_path / "m", LEFT_ASIDE | SILENT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = DiffusionLM.from_pretrained(folder)
    (warning,) = caught
    named = str(warning.message).partition("left aside: ")[2].split(", ")
    assert named == sorted(LEFT_ASIDE)
    assert warning.filename == __file__
    right = DiffusionLM.from_pretrained(FOLDERS[name])
    assert all(torch.equal(value, right.state_dict()[key]) for key, value in model.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["flash_attn_varlen"] is True


@pytest.mark.parametrize("field", REFUSED)
def test_arithmetic_is_refused_unless_it_is_ignored_by_name(field: str, tmp_path: Path) -> None:
    value, kind = REFUSED[field]
    assert (kind_of(field), is_neutral(field, value)) == (kind, False)
    assert kind_of(field.upper()) == kind


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("dream-tiny", "rope_ratio"),
        ("llada-tiny", "quantization_config"),
        ("llada-tiny", "alibi"),
        ("dream-tiny", "rope_scaling"),
        ("dream-tiny", "block_size"),
        ("mdlm-dit-tiny", "self_conditioning"),
    ],
)
def test_the_switch(name: str, field: str, tmp_path: Path) -> None:
    known = field in ("alibi", "rope_scaling")
    value = {"alibi": True, "rope_scaling": {"type": "yarn", "factor": 4.0}, "block_size": 4}.get(field)
    value = REFUSED[field][0] if value is None else value
    folder = with_fields(name, tmp_path / "m", {field: value})
    with pytest.raises(ValueError, match=f"{field}=.*" + ("" if known else f"--ignore_config_field {field}")):
        DiffusionLM.from_pretrained(folder)
    model = DiffusionLM.from_pretrained(folder, ignore_fields=[field])
    right = DiffusionLM.from_pretrained(FOLDERS[name])
    assert all(torch.equal(saved, right.state_dict()[key]) for key, saved in model.state_dict().items())
    model.save_pretrained(tmp_path / "again")  # which says what was computed
    assert field not in json.loads((tmp_path / "again/config.json").read_text()) or known
    DiffusionLM.from_pretrained(tmp_path / "again")


def test_the_base_of_an_ignored_rotation_stays(tmp_path: Path) -> None:
    rotation = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 12_345.0}
    folder = with_fields("dream-tiny", tmp_path / "m", {"rope_parameters": rotation})
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    model = DiffusionLM.from_pretrained(folder, ignore_fields=["rope_parameters"])
    assert model.backbone.rope_theta == 12_345.0


def test_a_plain_rotation_in_either_field_is_no_scaling(tmp_path: Path) -> None:
    plain = {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"type": "default", "rope_theta": 1e6}}
    model = DiffusionLM.from_pretrained(with_fields("dream-tiny", tmp_path / "m", plain))
    assert model.backbone.rope_theta == 1e6


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    folder = with_fields("llada-tiny", tmp_path / "m", {"rope_table": list(range(100_000))})
    with pytest.raises(ValueError, match=r"rope_table=\[0, 1, .*\.\.\.") as error:
        DiffusionLM.from_pretrained(folder)
    assert len(str(error.value)) < 600
