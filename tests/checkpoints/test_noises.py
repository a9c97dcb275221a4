"""Checkpoints of UDLM, Duo, GIDD and SEDD: tiny ones in their layout, against a plain version of the network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released import read_pretrained
from llada.module import DiffusionLM
from llada.noise import GeometricSchedule, LinearSchedule
from llada.process import AbsorbingHybridProcess, HybridProcess, MaskingProcess, UniformProcess

D, LAYERS, HEADS, C, LENGTH, V = 16, 2, 2, 8, 12, 11
HUB = {"cond_dim": C, "dropout": 0.1, "hidden_dim": D, "model_length": LENGTH, "n_blocks": LAYERS, "n_heads": HEADS}
CONFIGS: dict[str, dict[str, Any]] = {
    "udlm": {
        **HUB, "model_type": "udlm", "vocab_size": V, "time_conditioning": True, "cfg": False, "cfg_num_classes": -1,
    },
    "duo": {**HUB, "model_type": "DUO", "vocab_size": V, "causal": False, "var_min": True, "architectures": ["DUO"]},
    "gidd": {
        "model_type": "dit", "vocab_size": V, "max_seq_len": LENGTH, "hidden_size": D, "timestep_cond_dim": C,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "attention_dropout": 0.0, "p_uniform": 0.2,
        "t_eps": 1e-4,
    },
    "sedd": {
        "ngpus": 8, "tokens": V - 1, "graph": {"type": "absorb", "file": "data", "report_all": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}, "training": {"ema": 0.9999},
        "model": {
            "name": "small", "type": "ddit", "hidden_size": D, "cond_dim": C, "length": LENGTH, "n_blocks": LAYERS,
            "n_heads": HEADS, "scale_by_sigma": True, "dropout": 0.1,
        },
    },
}  # fmt: skip
PREFIX = {"udlm": "backbone.", "duo": "backbone.", "gidd": "", "sedd": ""}
SHAPES = {
    "vocab_embed.embedding": (V, D),
    "sigma_map.mlp.0.weight": (C, 256), "sigma_map.mlp.0.bias": (C,),
    "sigma_map.mlp.2.weight": (C, C), "sigma_map.mlp.2.bias": (C,),
    **{
        f"blocks.{layer}.{name}": shape
        for layer in range(LAYERS)
        for name, shape in {
            "norm1.weight": (D,), "attn_qkv.weight": (3 * D, D), "attn_out.weight": (D, D), "norm2.weight": (D,),
            "mlp.0.weight": (4 * D, D), "mlp.0.bias": (4 * D,), "mlp.2.weight": (D, 4 * D), "mlp.2.bias": (D,),
            "adaLN_modulation.weight": (6 * D, C), "adaLN_modulation.bias": (6 * D,),
        }.items()
    },
    "output_layer.norm_final.weight": (D,), "output_layer.linear.weight": (V, D), "output_layer.linear.bias": (V,),
    "output_layer.adaLN_modulation.weight": (2 * D, C), "output_layer.adaLN_modulation.bias": (2 * D,),
}  # fmt: skip


def random_weights(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    drawn = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}
    if name == "gidd":
        angles = torch.outer(torch.arange(float(LENGTH)), 10_000.0 ** -(torch.arange(0, D // HEADS, 2) / (D // HEADS)))
        turned = torch.cat((angles, angles), 1)[None, :, None, None].repeat(1, 1, 3, 1, 1)
        turned[:, :, 2] = 0.0
        drawn |= {"rotary_emb.cos_cached": turned.cos(), "rotary_emb.sin_cached": turned.sin()}
    else:
        drawn["rotary_emb.inv_freq"] = 10_000.0 ** -(torch.arange(0, D // HEADS, 2) / (D // HEADS))
    return {PREFIX[name] + key: value for key, value in drawn.items()}


def plain(weights: dict[str, Tensor], tokens: Tensor, told: Tensor) -> Tensor:
    """The published network, one head and one row at a time; ``told`` (B,) is the number that it is conditioned on."""
    w = {key.removeprefix("backbone."): value for key, value in weights.items()}
    rows = []
    for row, number in zip(tokens, told, strict=True):
        angles = number * torch.exp(-torch.arange(128) / 128 * torch.tensor(10_000.0).log())
        hidden = torch.cat((angles.cos(), angles.sin())) @ w["sigma_map.mlp.0.weight"].T + w["sigma_map.mlp.0.bias"]
        c = F.silu(F.silu(hidden) @ w["sigma_map.mlp.2.weight"].T + w["sigma_map.mlp.2.bias"])
        x = w["vocab_embed.embedding"][row]
        for layer in range(LAYERS):
            b = {key.removeprefix(f"blocks.{layer}."): value for key, value in w.items()}
            parts = (b["adaLN_modulation.weight"] @ c + b["adaLN_modulation.bias"]).view(6, D)
            normed = F.layer_norm(x, [D]) * b["norm1.weight"] * (1 + parts[1]) + parts[0]
            qkv = (normed @ b["attn_qkv.weight"].T).view(-1, 3, HEADS, D // HEADS)
            heads = []
            for head in range(HEADS):
                q, k = (turn(qkv[:, part, head]) for part in (0, 1))
                heads.append((q @ k.T / (D // HEADS) ** 0.5).softmax(-1) @ qkv[:, 2, head])
            x = x + parts[2] * (torch.cat(heads, 1) @ b["attn_out.weight"].T)
            normed = F.layer_norm(x, [D]) * b["norm2.weight"] * (1 + parts[4]) + parts[3]
            inner = F.gelu(normed @ b["mlp.0.weight"].T + b["mlp.0.bias"], approximate="tanh")
            x = x + parts[5] * (inner @ b["mlp.2.weight"].T + b["mlp.2.bias"])
        shift, scale = (w["output_layer.adaLN_modulation.weight"] @ c + w["output_layer.adaLN_modulation.bias"]).view(
            2, D
        )
        x = F.layer_norm(x, [D]) * w["output_layer.norm_final.weight"] * (1 + scale) + shift
        rows.append(x @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"])
    return torch.stack(rows)


def turn(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    angles = torch.outer(torch.arange(len(x)), 10_000.0 ** -(torch.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), 1)


def folder(path: Path, name: str, **changes: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIGS[name], **changes}))
    save_file(random_weights(name), path / "model.safetensors")
    return path


OPTIONS: dict[str, dict[str, Any]] = {"gidd": {"mask_token_id": V - 1}}
PROCESSES = {
    "udlm": UniformProcess(V, LinearSchedule(1e-3), time_conditioned=True),
    "duo": UniformProcess(V, LinearSchedule(1e-3), time_conditioned=True),
    "gidd": HybridProcess(V - 1, V, 0.2, time_conditioned=True, tells_time=True),
    "sedd": MaskingProcess(V - 1, LinearSchedule(1e-3), time_conditioned=True, predicts_mask=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_plain_network_and_files_go_in_and_out(name: str, tmp_path: Path) -> None:
    model = DiffusionLM.from_pretrained(folder(tmp_path / "theirs", name), **OPTIONS.get(name, {}))
    assert model.process == PROCESSES[name]
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (3, LENGTH - 2), generator=generator)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    told = t if name == "gidd" else -torch.log1p(-(1 - 1e-3) * t)
    known = model.process.conditioning(t)
    torch.testing.assert_close(known["sigma"], told.float())
    with torch.no_grad():
        logits = model(tokens, **known)
    torch.testing.assert_close(logits, plain(random_weights(name), tokens, told.float()), rtol=1e-4, atol=1e-4)
    given = torch.arange(LENGTH - 2).expand(3, -1) < 2
    if model.process.mask_token_id is not None:
        tokens = tokens.clamp(max=V - 2)
    if name != "sedd":
        written = model.generate(tokens, given=given).tokens
        assert torch.equal(written[:, :2], tokens[:, :2])

    model.save_pretrained(tmp_path / "ours")
    for stored, value in random_weights(name).items():
        torch.testing.assert_close(load_file(tmp_path / "ours" / "model.safetensors")[stored], value, msg=stored)
    again = DiffusionLM.from_pretrained(tmp_path / "ours")
    assert again.process == model.process
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    written_config = json.loads((tmp_path / "ours" / "config.json").read_text())
    for key in set(CONFIGS[name]) - {"training", "ngpus"}:
        assert written_config[key] == CONFIGS[name][key], key

    fresh = DiffusionLM(model.backbone, model.process, approximate_bound=True)  # of no file
    fresh.save_pretrained(tmp_path / "fresh", layout=name)
    assert read_pretrained(tmp_path / "fresh").process == model.process


def test_sedds_scores_at_a_mask_are_odds_of_what_is_read(tmp_path: Path) -> None:
    """score(y) = xhat(y) / (exp(sigma) - 1): the official output less its shift, up to one factor for all tokens."""
    model = DiffusionLM.from_pretrained(folder(tmp_path / "theirs", "sedd"))
    tokens, t = torch.tensor([[0, V - 1, 3, V - 1]]), torch.tensor([0.4], dtype=torch.float64)
    sigma = model.process.conditioning(t)["sigma"]
    raw = plain(random_weights("sedd"), tokens, sigma)
    scores = (raw - torch.expm1(sigma).log() - torch.tensor(float(V - 1)).log()).exp()[0, [1, 3], : V - 1]
    clean = model.process.network(model.backbone).clean_logits(tokens, torch.tensor([[1, 3]]), None, sigma=sigma)
    xhat = clean[0, :, : V - 1].softmax(-1)
    ratio = scores * torch.expm1(sigma) / xhat
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("udlm", {"cfg": True, "cfg_num_classes": 3}, "cfg=True, but only False"),
        ("duo", {"causal": True}, "causal=True, but only False"),
        ("duo", {"time_embedding": "x"}, r"time_embedding.*condition"),
        ("gidd", {}, "names no mask_token_id"),
        ("gidd", {"p_uniform": -0.1}, "p_uniform=-0.1, but it must be"),
        ("sedd", {"graph": {"type": "uniform"}}, r"graph.type='uniform'.*ScoreDenoiser"),
        ("sedd", {"noise": {"type": "cosine"}}, "noise.type='cosine'"),
        ("sedd", {"model": {**CONFIGS["sedd"]["model"], "rope_scaling": 2.0}}, "rope_scaling"),
    ],
)
def test_what_these_files_say_beyond_it_is_refused(name: str, changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionLM.from_pretrained(folder(tmp_path / "theirs", name, **changes))


def test_what_a_layout_has_no_word_for_is_refused(tmp_path: Path) -> None:
    backbone = DiffusionTransformer(V, D, LAYERS, HEADS, C, max_length=LENGTH, dropout=0.1)
    timed = {"time_conditioned": True}
    for process, layout, message in (
        (UniformProcess(V), "mdlm", "mdlm layout holds models of MaskingProcess, not of UniformProcess"),
        (UniformProcess(V - 1), None, "no layout of released .* duo can't say num_tokens=10"),
        (UniformProcess(V - 1, **timed), "duo", "can't say num_tokens=10, only 11"),
        (UniformProcess(V, posterior=True, **timed), "udlm", "can't say posterior=True"),
        (MaskingProcess(V - 1), "gidd", "gidd layout holds models of HybridProcess"),
        (HybridProcess(V - 1, V, **timed), "gidd", "can't say tells_time=False"),
        (HybridProcess(V - 1, V, gamma=0.5, tells_time=True, **timed), "gidd", "can't say gamma=0.5"),
        (AbsorbingHybridProcess(V - 1, V, tells_time=True, **timed), "gidd", "can't say process="),
        (MaskingProcess(2, time_conditioned=True), "sedd", "mask at the end"),
        (MaskingProcess(V - 1), "sedd", "can't say time_conditioned=False"),
    ):
        model = DiffusionLM(backbone, process)
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(tmp_path / "out", layout=layout)
    free = DiffusionLM(backbone, UniformProcess(V))  # of no file: the first layout that can say it
    free.save_pretrained(tmp_path / "free")
    assert json.loads((tmp_path / "free" / "config.json").read_text())["model_type"] == "udlm"
    geometric = MaskingProcess(V - 1, GeometricSchedule(1e-3, 8.0), time_conditioned=True, predicts_mask=False)
    DiffusionLM(backbone, geometric).save_pretrained(tmp_path / "geometric", layout="sedd")
    assert read_pretrained(tmp_path / "geometric").process == geometric


@pytest.mark.parametrize("name", ["duo", "udlm"])
def test_training_checkpoints_are_read_without_their_code(name: str, tmp_path: Path) -> None:
    weights = random_weights(name)
    model = {"hidden_size": D, "cond_dim": C, "length": LENGTH, "n_blocks": LAYERS, "n_heads": HEADS, "dropout": 0.1}
    config: dict[str, Any] = {"model": model}
    own = {"parameterization": "d3pm", "backbone": "dit", "diffusion": "uniform", "time_conditioning": True}
    if name == "duo":
        own = {"name": "duo_base", "backbone": "dit", "parameterization": "mean", "time_conditioning": True}
        config |= {"algo": {**own, "causal_attention": False}}
    else:
        config |= own
    averaged = [value + 1.0 for key, value in weights.items() if not key.endswith("inv_freq")]
    stored = {"hyper_parameters": {"config": config}, "state_dict": weights, "ema": {"shadow_params": averaged}}
    torch.save(stored, tmp_path / "run.ckpt")
    model_ = DiffusionLM.from_pretrained(tmp_path / "run.ckpt")
    assert model_.process == PROCESSES[name]
    expected = weights["backbone.vocab_embed.embedding"] + 1.0
    assert torch.equal(model_.backbone.embedding.weight, expected)  # type: ignore[union-attr]

    changed = config["algo"] if name == "duo" else config
    changed["parameterization"] = "subs"
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="parameterization='subs', but only"):
        DiffusionLM.from_pretrained(tmp_path / "other.ckpt")
