"""The networks of checkpoints, written out from their tensors by their official names; nothing of ours."""

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
    if config.get("shared_expert_intermediate_size"):
        key = f"model.layers.{n}.mlp.shared_expert."
        gate = h @ w[key + "gate_proj.weight"].T
        out = (gate * gate.sigmoid() * (h @ w[key + "up_proj.weight"].T)) @ w[key + "down_proj.weight"].T
    for b in range(h.shape[0]):
        for i in range(h.shape[1]):
            for e in p[b, i].argsort(descending=True)[: config["num_experts_per_tok"]].tolist():
                key = f"model.layers.{n}.mlp.experts.{e}."
                gate = w[key + "gate_proj.weight"] @ h[b, i]
                hidden = gate * gate.sigmoid() * (w[key + "up_proj.weight"] @ h[b, i])
                out[b, i] += p[b, i, e] * (w[key + "down_proj.weight"] @ hidden)
    return out


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def block_diffusion_mask(length: int, block: int) -> Tensor:
    """(2L, 2L) of a noisy half and a clean half: who attends to whom in BD3LM's training pass."""
    mask = torch.zeros(2 * length, 2 * length, dtype=torch.bool)
    for q in range(2 * length):
        for k in range(2 * length):
            q_clean, k_clean = q >= length, k >= length
            b_q, b_k = (q % length) // block, (k % length) // block
            mask[q, k] = (
                (q_clean == k_clean and b_q == b_k)
                or (not q_clean and k_clean and b_q > b_k)
                or (q_clean and k_clean and b_q >= b_k)
            )
    return mask


def dit_logits(folder: Path, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """MDLM's network at sigma 0; ``positions`` (L,) for the rotation, ``mask`` (L, L) true where a query may look."""
    config = json.loads((folder / "config.json").read_text())
    w = {name.removeprefix("backbone."): tensor for name, tensor in tensors(folder).items()}
    heads = config["n_heads"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", torch.zeros(()))

    half = 128
    angles = torch.zeros(half, dtype=torch.float64)
    c = linear(torch.cat((angles.cos(), angles.sin())), "sigma_map.mlp.0")
    c = linear(c * c.sigmoid(), "sigma_map.mlp.2")
    c = c * c.sigmoid()
    x = w["vocab_embed.embedding"][ids]
    for n in range(config["n_blocks"]):
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(c, f"blocks.{n}.adaLN_modulation").chunk(6)
        h = layer_norm(x, w[f"blocks.{n}.norm1.weight"]) * (1 + scale1) + shift1
        q, k, v = linear(h, f"blocks.{n}.attn_qkv").unflatten(-1, (3, heads, -1)).unbind(2)
        d = q.shape[-1]
        angle = positions[:, None] * 10000.0 ** (-torch.arange(d // 2, dtype=torch.float64) * 2 / d)
        spin = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k = (torch.complex(z[..., : d // 2], z[..., d // 2 :]) * spin for z in (q, k))
        q, k = (torch.cat((z.real, z.imag), -1) for z in (q, k))
        score = torch.einsum("bqhd,bkhd->bhqk", q, k) / d**0.5
        score = score.masked_fill(~mask, -torch.inf).softmax(-1)
        x = x + gate1 * linear(torch.einsum("bhqk,bkhd->bqhd", score, v).flatten(2), f"blocks.{n}.attn_out")
        h = layer_norm(x, w[f"blocks.{n}.norm2.weight"]) * (1 + scale2) + shift2
        h = linear(h, f"blocks.{n}.mlp.0")
        h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
        x = x + gate2 * linear(h, f"blocks.{n}.mlp.2")
    shift, scale = linear(c, "output_layer.adaLN_modulation").chunk(2)
    x = layer_norm(x, w["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return linear(x, "output_layer.linear")
