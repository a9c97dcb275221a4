"""The tiny reference checkpoints under tests/golden, loaded without the library's own loaders."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from llada.backbones import BidirectionalTransformer, DiffusionTransformer

GOLDEN = Path(__file__).parent / "golden"


def arrays(folder: str, name: str) -> dict[str, Tensor]:
    """The arrays of one .npz file."""
    with np.load(GOLDEN / folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def values(folder: str, name: str) -> dict[str, Any]:
    """The content of one .json file."""
    return json.loads((GOLDEN / folder / f"{name}.json").read_text())


LLADA_NAMES = {
    "wte.": "embedding.",
    "attn_norm.": "attention_norm.",
    "ff_norm.": "feed_forward_norm.",
    "q_proj.": "attention.q_proj.",
    "k_proj.": "attention.k_proj.",
    "v_proj.": "attention.v_proj.",
    "attn_out.": "attention.o_proj.",
    "ff_proj.": "feed_forward.gate_proj.",
    "up_proj.": "feed_forward.up_proj.",
    "ff_out.": "feed_forward.down_proj.",
    "ln_f.": "final_norm.",
}


def llada_name(name: str) -> str:
    """Our name of a tensor of the official LLaDA layout."""
    name = name.removeprefix("model.transformer.")
    if name.startswith("ff_out."):
        return name.replace("ff_out.", "head.")
    for theirs, ours in LLADA_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def tiny_llada(dtype: torch.dtype = torch.float32) -> BidirectionalTransformer:
    """The model of tests/golden/llada-tiny, in evaluation mode."""
    config = json.loads((GOLDEN / "llada-tiny/checkpoint/config.json").read_text())
    model = BidirectionalTransformer(
        vocab_size=config["vocab_size"],
        width=config["d_model"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        hidden_width=config["mlp_hidden_size"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
    )
    weights = load_file(GOLDEN / "llada-tiny/checkpoint/model.safetensors")
    model.load_state_dict({llada_name(name): tensor for name, tensor in weights.items()})
    return model.to(dtype).eval()


MDLM_NAMES = {
    "vocab_embed.embedding": "embedding.weight",
    "sigma_map.": "noise_embedding.",
    "attn_qkv.": "attention.qkv.",
    "attn_out.": "attention.o_proj.",
    "norm1.": "attention_norm.",
    "norm2.": "feed_forward_norm.",
    "output_layer.norm_final.": "final_norm.",
    "output_layer.adaLN_modulation.": "final_modulation.",
    "output_layer.linear.": "head.",
    "adaLN_modulation.": "modulation.",
}


def mdlm_name(name: str) -> str:
    """Our name of a tensor of MDLM's layout."""
    name = name.removeprefix("backbone.")
    for theirs, ours in MDLM_NAMES.items():
        name = name.replace(theirs, ours)
    return re.sub(r"^(blocks\.\d+)\.mlp\.", r"\1.feed_forward.", name)


def mdlm_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """MDLM's tensors under our names; the stored rotary frequencies follow from the configuration."""
    return {mdlm_name(name): tensor for name, tensor in weights.items() if "rotary_emb" not in name}


def tiny_dit(folder: str, **options: Any) -> DiffusionTransformer:
    """The model of tests/golden/mdlm-dit-tiny/<folder> (a checkpoint in Hugging Face form), in evaluation mode."""
    config = values("mdlm-dit-tiny", f"{folder}/config")
    model = DiffusionTransformer(
        vocab_size=config["vocab_size"],
        width=config["hidden_dim"],
        num_layers=config["n_blocks"],
        num_heads=config["n_heads"],
        cond_width=config["cond_dim"],
        max_length=config["model_length"],
        **options,
    )
    model.load_state_dict(mdlm_weights(load_file(GOLDEN / "mdlm-dit-tiny" / folder / "model.safetensors")))
    return model.eval()


DREAM_NAMES = {
    "embed_tokens.": "embedding.",
    "layers.": "blocks.",
    "self_attn.": "attention.",
    "mlp.": "feed_forward.",
    "input_layernorm.": "attention_norm.",
    "post_attention_layernorm.": "feed_forward_norm.",
    "lm_head.": "head.",
}


def dream_name(name: str) -> str:
    """Our name of a tensor of Dream's layout."""
    name = name.removeprefix("model.")
    if name == "norm.weight":
        return "final_norm.weight"
    for theirs, ours in DREAM_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def tiny_dream(dtype: torch.dtype = torch.float32) -> BidirectionalTransformer:
    """The model of tests/golden/dream-tiny, in evaluation mode; its outputs are shifted."""
    config = values("dream-tiny", "checkpoint/config")
    model = BidirectionalTransformer(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        hidden_width=config["intermediate_size"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        qkv_bias=True,
        shift=True,
    )
    weights = load_file(GOLDEN / "dream-tiny/checkpoint/model.safetensors")
    model.load_state_dict({dream_name(name): tensor for name, tensor in weights.items()})
    return model.to(dtype).eval()
