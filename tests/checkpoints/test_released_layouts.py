"""Every released file layout of the table loads without storage, at its own sizes and tiny, or says why not."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llada.checkpoints.released import read_pretrained
from llada.checkpoints.released.families import layout_of
from llada.checkpoints.released.fields import MaskMissing
from llada.checkpoints.released.materialise import build_on_meta, check_fit
from tests.checkpoints.released_layouts import LAYOUTS, Released

TINY: dict[str, int] = {
    "d_model": 16, "embedding_size": 24, "expert_intermediate_size": 12, "hidden_dim": 16, "hidden_size": 16,
    "intermediate_size": 12, "mlp_hidden_size": 12, "n_blocks": 2, "n_heads": 2, "n_kv_heads": 1, "n_layers": 2,
    "num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 1, "vocab_size": 24, "cond_dim": 8, "head_dim": 8, "moe_intermediate_size": 10,
    "n_group": 2, "topk_group": 1, "rotary_dim": 4,
}  # fmt: skip
MASK = 21
FEW = {"num_hidden_layers": 2, "num_experts": 32}
"""Thousands of experts alike would take minutes and show nothing more."""
INSIDE = ("mlp_hidden_size", "expert_intermediate_size", "moe_intermediate_size", "intermediate_size")


def sizes(config: dict[str, Any], names: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """What the letters in the shapes stand for."""
    width = config.get("hidden_size", config.get("d_model", config.get("hidden_dim", 1)))
    heads = config.get("num_attention_heads", config.get("n_heads", 1))
    groups = config.get("num_key_value_heads", config.get("n_kv_heads", heads))
    head = config.get("head_dim", width // heads)
    inside = next((config[name] for name in INSIDE if name in config), 1)
    rows = config.get("embedding_size", config.get("vocab_size", 1))
    found = {"V": rows, "W": rows + 1, "D": width, "Q": heads * head, "K": groups * head, "d": head, "F": inside}
    found |= {f"{factor}D": factor * width for factor in (2, 3, 4, 6)}
    found |= {"QKV": (heads + 2 * groups) * head, "I": config.get("intermediate_size", 1)}
    return found | {"C": config.get("cond_dim", 1), "E": config.get("num_experts", 1), "r": head // 2, "256": 256}


def shapes(released: Released, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The stored tensors of a release of these sizes."""
    layers = config.get("num_hidden_layers", config.get("n_layers", config.get("n_blocks", 1)))
    letters, found = sizes(config, released.names), {}
    dense = config.get("first_k_dense_replace", 0)
    of_layers = {"{n}": range(layers), "{dense}": range(dense), "{mixed}": range(dense, layers)}
    for name, shape in released.names.items():
        for layer in next((where for part, where in of_layers.items() if part in name), range(1)):
            for expert in range(config["num_experts"] if "{e}" in name else 1):
                spelt = name.format(n=layer, dense=layer, mixed=layer, e=expert)
                found[spelt] = tuple(letters[letter] for letter in shape)
    return found


def shrunk(released: Released) -> dict[str, Any]:
    config = {name: TINY.get(name, value) for name, value in (released.config or {}).items()}
    for name, value in config.items():  # a word per layer
        if isinstance(value, list) and len(value) > 2 and name != "architectures":
            config[name] = value[:2]
    if config.get("mask_token_id", -1) >= 0:
        config["mask_token_id"] = TINY["vocab_size"] if released.warns == "has no row" else MASK
    if "block_size" in config and config["model_type"] == "bd3lm":
        config["model_length"] = 64
    return config


def write(released: Released, folder: Path) -> None:
    """The files of a release, with few and small tensors in two shards as large ones have them."""
    folder.mkdir()
    config = shrunk(released)
    if released.config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for file, content in released.tokenizer.items():
        known = {name: MASK if isinstance(value, int) else value for name, value in content.items()}
        (folder / file).write_text(json.dumps(known))
    stored = {name: torch.zeros(shape) for name, shape in shapes(released, config).items()}
    for name in stored:
        if name.endswith("inv_freq"):
            head = 2 * len(stored[name])
            stored[name] = 10_000.0 ** -(torch.arange(0, head, 2) / head)
        if name == "lm_head.weight":
            stored[name] += 1  # trained apart from the embedding
    names, weight_map = sorted(stored), {}
    for number in (1, 2):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: stored[name] for name in names[number - 1 :: 2]}, folder / file)
        weight_map |= dict.fromkeys(names[number - 1 :: 2], file)
    index = {"metadata": {"total_size": 4 * sum(t.numel() for t in stored.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def options(released: Released) -> dict[str, Any]:
    return {name: MASK if name == "mask_token_id" else value for name, value in released.options.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tiny_files_of_the_layout(name: str, tmp_path: Path) -> None:
    released = LAYOUTS[name]
    write(released, tmp_path / "m")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if released.refused:
            with pytest.raises((ValueError, FileNotFoundError), match=released.refused):
                read_pretrained(tmp_path / "m", device="meta", **options(released))
            return
        loaded = read_pretrained(tmp_path / "m", device="meta", **options(released))
    assert all(parameter.is_meta for parameter in loaded.backbone.parameters())
    said = " ".join(str(warning.message) for warning in caught)
    assert released.warns in said
    assert bool(said) == bool(released.warns), said
    for field, value in released.expected.items():
        if field in ("shift", "block_length", "tie_embeddings"):
            assert getattr(loaded.backbone, field) == value, field


@pytest.mark.parametrize("name", [name for name, released in LAYOUTS.items() if not released.refused])
def test_its_own_sizes_without_files(name: str) -> None:
    released = LAYOUTS[name]
    assert released.config is not None
    config = released.config | (FEW if "num_experts" in released.config else {})
    config |= {"moe_layer_freq": [1, 1]} if "moe_layer_freq" in config else {}
    layout, mask = layout_of(config), released.options.get("mask_token_id")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            described = layout.read(config, mask)
        except MaskMissing:
            described = layout.read(config, released.expected["mask"])
    rest = {key: value for key, value in released.options.items() if key != "mask_token_id"}
    stored = shapes(released, config)
    own_head = {"tie_embeddings": False} if "lm_head.weight" in stored else {}
    backbone = build_on_meta(described, {**rest, **own_head})
    assert check_fit(backbone, layout, stored, described.grows) == ({"head.weight"} if described.grows else set())
    for field, value in released.expected.items():
        assert (described.process.mask_token_id if field == "mask" else getattr(backbone, field)) == value, field


def test_the_table_says_where_its_facts_are_from() -> None:
    assert {released.source for released in LAYOUTS.values()} == {"seen", "told", "assumed"}
    assert {layout_of(r.config).name for r in LAYOUTS.values() if r.config and not r.refused} == {
        "llada", "llada_moe", "dream", "a2d-qwen2", "a2d-qwen3", "a2d-llama", "sdar", "fast_dllm", "qwen2", "qwen3",
        "llama", "mdlm", "llada2", "sdar_moe", "qwen3_moe",
    }  # fmt: skip
