"""The network of a LLaMA-style checkpoint, written out from its tensors by their official names; nothing of ours."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

LLADA = {
    "attn_norm": "attn_norm", "ffn_norm": "ff_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out",
    "gate": "ff_proj", "up": "up_proj", "down": "ff_out",
}  # fmt: skip
HF = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return {name: tensor.double() for name, tensor in found.items()}


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x: Tensor, theta: float) -> Tensor:
    """(B, L, heads, d): rotate by complex multiplication."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:])
    angle = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    z = z * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((z.real, z.imag), -1)


def logits(folder: Path, ids: Tensor) -> Tensor:
    config = json.loads((folder / "config.json").read_text())
    w = tensors(folder)
    ours = "d_model" in config
    part = LLADA if ours else HF
    block = "model.transformer.blocks.{}.{}" if ours else "model.layers.{}.{}"
    heads = config["n_heads"] if ours else config["num_attention_heads"]
    kv = config["n_kv_heads"] if ours else config["num_key_value_heads"]
    layers = config["n_layers"] if ours else config["num_hidden_layers"]
    eps, theta = config["rms_norm_eps"], config["rope_theta"]

    def linear(x: Tensor, layer: int, name: str) -> Tensor:
        key = block.format(layer, name)
        return x @ w[key + ".weight"].T + w.get(key + ".bias", torch.zeros(()))

    embedding = w["model.transformer.wte.weight" if ours else "model.embed_tokens.weight"]
    x = embedding[ids]
    for n in range(layers):
        h = norm(x, w[block.format(n, part["attn_norm"]) + ".weight"], eps)
        q, k, v = (
            linear(h, n, part[name]).unflatten(-1, (-1, linear(h, n, part["q"]).shape[-1] // heads)) for name in "qkv"
        )
        if block.format(n, "self_attn.q_norm.weight") in w:
            q = norm(q, w[block.format(n, "self_attn.q_norm.weight")], eps)
            k = norm(k, w[block.format(n, "self_attn.k_norm.weight")], eps)
        q, k = turn(q, theta), turn(k, theta)
        result = torch.empty_like(q)
        for head in range(heads):
            group = head * kv // heads
            score = torch.einsum("bqd,bkd->bqk", q[:, :, head], k[:, :, group]) / q.shape[-1] ** 0.5
            result[:, :, head] = score.softmax(-1) @ v[:, :, group]
        x = x + linear(result.flatten(2), n, part["o"])
        h = norm(x, w[block.format(n, part["ffn_norm"]) + ".weight"], eps)
        x = x + (experts(h, w, n, config) if "num_experts" in config else feed_forward(h, n, linear, part))
    x = norm(x, w["model.transformer.ln_f.weight" if ours else "model.norm.weight"], eps)
    head_key = "model.transformer.ff_out" if ours else "lm_head"
    matrix = w.get(head_key + ".weight", embedding)
    return x @ matrix.T + w.get(head_key + ".bias", torch.zeros(()))


def feed_forward(h, n, linear, part):
    gate = linear(h, n, part["gate"])
    return linear(gate * gate.sigmoid() * linear(h, n, part["up"]), n, part["down"])


def experts(h: Tensor, w: dict[str, Tensor], n: int, config: dict) -> Tensor:
    p = (h @ w[f"model.layers.{n}.mlp.gate.weight"].T).softmax(-1)
    out = torch.zeros_like(h)
    for b in range(h.shape[0]):
        for i in range(h.shape[1]):
            for e in p[b, i].argsort(descending=True)[: config["num_experts_per_tok"]].tolist():
                key = f"model.layers.{n}.mlp.experts.{e}."
                gate = w[key + "gate_proj.weight"] @ h[b, i]
                hidden = gate * gate.sigmoid() * (w[key + "up_proj.weight"] @ h[b, i])
                out[b, i] += p[b, i, e] * (w[key + "down_proj.weight"] @ hidden)
    return out
