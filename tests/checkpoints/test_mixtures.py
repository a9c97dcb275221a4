"""Released mixtures of experts: LLaDA2 and SDAR's, against transformers' own code for the same arithmetic.

transformers has no LLaDA2, but Glm4Moe is its body: a sigmoid router in groups with a bias, part of each head rotated,
normalised queries and keys, plain layers first, shared experts. Names and forms of the tensors are written out here.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter, SoftmaxRouter
from llada.checkpoints.released import merge_adapter, write_adapter
from llada.checkpoints.released.llada2 import LLaDA2Layout
from llada.checkpoints.released.qwen3_moe import QWEN3_MOE, SDAR_MOE
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import llada2
from tests.installed import of_transformers

VOCAB, MASK, BLOCK = 60, 59, 4
IDS = torch.randint(MASK, (2, 11), generator=torch.Generator().manual_seed(1))
BODY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "intermediate_size": 24, "moe_intermediate_size": 8, "num_experts_per_tok": 3, "vocab_size": VOCAB,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLADA2: dict[str, Any] = {
    **BODY, "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "first_k_dense_replace": 1, "n_group": 4,
    "topk_group": 2, "num_experts": 12, "num_shared_experts": 2, "partial_rotary_factor": 0.5, "rope_theta": 6e5,
    "routed_scaling_factor": 2.5, "use_bias": False, "norm_topk_prob": True, "score_function": "sigmoid",
    "mask_token_id": MASK, "max_window_layers": 28, "sliding_window": 4096, "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
}  # fmt: skip
NAMES = {
    "model.embed_tokens": "model.word_embeddings",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "self_attn.o_proj": "attention.dense",
    "gate.e_score_correction_bias": "gate.expert_bias",
}


def reference(kind: str, config: dict[str, Any]) -> Any:
    made = of_transformers(f"{kind}ForCausalLM")
    torch.manual_seed(0)
    model = made(of_transformers(f"{kind}Config")(**config)).eval()
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if "norm" in name:
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
        elif "bias" in name:
            torch.nn.init.uniform_(tensor, 0.0, 0.3)
        elif "inv_freq" not in name:
            torch.nn.init.normal_(tensor, std=0.25)
    return model


def logits(model: Any, ids: Tensor, block: int = BLOCK) -> Tensor:
    """What the reference computes if a token sees its own block and those before it."""
    place = torch.arange(ids.shape[1]) // block
    hidden = torch.zeros(len(place), len(place)).masked_fill(
        place[:, None] < place[None], torch.finfo(torch.float32).min
    )
    with torch.no_grad():
        return model(ids, attention_mask=hidden.expand(len(ids), 1, *hidden.shape)).logits


def glm() -> Any:
    shared = {"n_routed_experts": 12, "n_shared_experts": 2, "use_qk_norm": True, "num_mtp_layers": 0}
    rope = {"rope_type": "default", "rope_theta": 6e5, "partial_rotary_factor": 0.5}
    own = {name: LLADA2[name] for name in ("first_k_dense_replace", "n_group", "topk_group", "routed_scaling_factor")}
    return reference("Glm4Moe", {**BODY, **shared, **own, "rope_parameters": rope})


def published(model: Any, stacked: bool) -> dict[str, Tensor]:
    """The tensors by their published names, the experts one by one or stacked as dFactory has them."""
    found: dict[str, Tensor] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("q_proj.weight"):
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif "mlp.experts." in name:
            gate_up = name.endswith("gate_up_proj")
            pieces = (
                dict(zip(("gate_proj", "up_proj"), tensor.chunk(2, 1), strict=True))
                if gate_up
                else {"down_proj": tensor}
            )
            for part, all_of_it in pieces.items():
                path = name.rpartition(".")[0]
                if stacked:
                    found[f"{path}.{part}"] = all_of_it.contiguous()
                else:
                    found |= {f"{path}.{e}.{part}.weight": one.contiguous() for e, one in enumerate(all_of_it)}
        elif not name.endswith(("k_proj.weight", "v_proj.weight")):
            for theirs, new in NAMES.items():
                name = name.replace(theirs, new)
            found[name] = tensor
    return found


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model() -> Any:
    return glm()


@pytest.mark.parametrize("stacked", [False, True])
def test_llada2_in_and_out(model: Any, stacked: bool, tmp_path: Path) -> None:
    kind = "llada2_moe_veomni" if stacked else "llada2_moe"
    folder = write(tmp_path / "m", LLADA2 | {"model_type": kind}, published(model, stacked))
    ours = DiffusionLM.from_pretrained(folder, block_length=BLOCK)
    expected = logits(model, IDS)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), expected, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(ours(IDS[:, :8]), expected[:, :8], rtol=1e-4, atol=2e-5)
        assert not torch.allclose(ours(IDS), logits(model, IDS, 11), atol=1e-2)
    ours.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again/config.json").read_text())
    assert {name: value for name, value in LLADA2.items() if written[name] != value} == {"max_window_layers": 28}
    assert written["block_size"] == BLOCK
    stored = load_file(tmp_path / "again/model.safetensors")
    separate = published(model, False)
    assert stored.keys() == separate.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in separate.items())
    assert torch.equal(DiffusionLM.from_pretrained(tmp_path / "again")(IDS), ours(IDS))


def test_an_adapter_of_a_joined_matrix_is_shared_out(model: Any, tmp_path: Path) -> None:
    stored = published(model, False)
    ours = DiffusionLM.from_pretrained(write(tmp_path / "m", LLADA2, stored), block_length=BLOCK)
    path = "model.layers.1.attention.query_key_value"
    a, b = torch.randn(2, 32), torch.randn(len(stored[f"{path}.weight"]), 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3}))
    sides = {f"base_model.model.{path}.lora_{side}.weight": tensor for side, tensor in (("A", a), ("B", b))}
    save_file(sides, tmp_path / "a/adapter_model.safetensors")
    merge_adapter(ours.backbone, tmp_path / "a")
    ours.save_pretrained(tmp_path / "merged", layout="llada2")
    merged = load_file(tmp_path / "merged/model.safetensors")
    torch.testing.assert_close(merged.pop(f"{path}.weight"), stored[f"{path}.weight"] + 1.5 * b @ a)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in merged.items())
    pairs = {f"blocks.0.attention.{part}_proj": (a, torch.zeros(24, 2)) for part in "qk"}
    with pytest.raises(ValueError, match=r"several of the matrices as one, .*query_key_value"):
        write_adapter(tmp_path / "b", ours.backbone, LLaDA2Layout(), pairs, dict.fromkeys(pairs, 1.0))
    save_file({name: tensor[:-1] if "lora_B" in name else tensor for name, tensor in sides.items()},
              tmp_path / "a/adapter_model.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="has 95 rows, but the model's 96"):
        merge_adapter(ours.backbone, tmp_path / "a")


def test_llada2_writes_by_its_own_rule(model: Any, tmp_path: Path) -> None:
    """Of a block everything above the threshold, or the surest; block by block, from the first on."""
    ours = DiffusionLM.from_pretrained(write(tmp_path / "m", LLADA2, published(model, False)), block_length=BLOCK)
    threshold = 0.2
    canvas = torch.full((1, 16), MASK)
    canvas[:, :4] = IDS[:1, :4]
    expected, counts = canvas.clone(), []
    for start in range(4, 16, BLOCK):
        block = slice(start, start + BLOCK)
        while (expected[0, block] == MASK).any():
            scores = logits(model, expected[:, : block.stop])[0, block]
            scores[:, MASK] = -torch.inf
            sure, best = scores.softmax(-1).max(-1)
            sure[expected[0, block] != MASK] = -1
            chosen = sure > threshold if (sure > threshold).any() else sure == sure.max()
            expected[0, block] = torch.where(chosen, best, expected[0, block])
            counts.append(int(chosen.sum()))
    assert min(counts) == 1 < max(counts) < BLOCK  # the case has both halves of the rule
    found = ours.generate(canvas, sampler=llada2(threshold=threshold, block_length=BLOCK))
    assert torch.equal(found.tokens, expected)


def test_the_bias_of_the_choice_is_kept_and_never_trained(model: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLADA2, published(model, False))
    ours = DiffusionLM.from_pretrained(folder, block_length=BLOCK, dtype=torch.bfloat16)
    mixture: Any = ours.backbone.blocks[1].feed_forward
    assert (mixture.expert_bias.dtype, mixture.expert_bias.requires_grad) == (torch.bfloat16, False)
    ours.backbone(IDS).square().mean().backward()
    assert mixture.router.weight.grad.abs().sum() > 0
    seen: list[torch.dtype] = []
    mixture.router.register_forward_hook(lambda _m, _i, scores: seen.append(scores.dtype))
    with torch.no_grad():
        ours.backbone(IDS)
    assert seen == [torch.float32]


@pytest.mark.parametrize("family", ["sdar_moe", "qwen3_moe"])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_mixture_of_qwen3(family: str, normalised: bool, tmp_path: Path) -> None:
    other = reference("Qwen3Moe", {**BODY, "num_experts": 6, "norm_topk_prob": normalised})
    other.save_pretrained(tmp_path / "m")
    file = tmp_path / "m/config.json"
    layout = {"sdar_moe": SDAR_MOE, "qwen3_moe": QWEN3_MOE}[family]
    own = {"model_type": family, "architectures": [layout.architecture]}
    blocks = {"block_size": BLOCK, "mask_token_id": MASK} if family == "sdar_moe" else {}
    file.write_text(json.dumps(json.loads(file.read_text()) | own | blocks))
    ours = DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=MASK)
    with torch.no_grad():
        expected = logits(other, IDS, BLOCK if blocks else 11)
        if not blocks:
            expected = torch.cat((expected[:, :1], expected[:, :-1]), 1)
        torch.testing.assert_close(ours(IDS), expected, rtol=1e-4, atol=2e-5)
    ours.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == load_file(tmp_path / "m/model.safetensors").keys()
    again = DiffusionLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(IDS), ours(IDS))
    assert (again.backbone.block_length, again.backbone.shift) == (BLOCK if blocks else None, not blocks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_bias": True}, "use_bias=True, but only False"),
        ({"use_bias": None}, "use_bias=None, but only False"),
        ({"score_function": "softmax"}, "score_function='softmax', but only 'sigmoid'"),
        ({"norm_topk_prob": False}, "norm_topk_prob=False"),
        ({"rotary_dim": 12}, r"rotary_dim=12, but partial_rotary_factor=0\.5 of head_dim=12 are 6"),
        ({"partial_rotary_factor": 1.5}, r"rotary_dim must be even and in 2 \.\. 12"),
        ({"n_group": 5}, "num_groups=5 must divide num_experts=12"),
        ({"n_group": 12}, "into groups of two or more"),
        ({"topk_group": 5}, r"groups_per_token must be in 1 \.\. 4; got 5"),
        ({"topk_group": 1, "num_experts_per_tok": 4}, "experts_per_token=4 are more than the 3 experts"),
        ({"expert_capacity": 4}, "expert_capacity=4, which isn't understood"),
    ],
)
def test_what_llada2_cannot_be_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLADA2 | change, {f"t{index}": torch.zeros(1) for index in range(40)})
    with pytest.raises(ValueError, match=message):
        DiffusionLM.from_pretrained(folder)


def brute_force(scores: Tensor, bias: Tensor, router: GroupedRouter, count: int) -> dict[int, float]:
    """The definition, expert by expert."""
    affinity = scores.sigmoid()
    size = len(scores) // router.num_groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(router.num_groups)]
    ranked = (affinity + bias).tolist()
    groups.sort(key=lambda group: -sum(sorted((ranked[e] for e in group), reverse=True)[:2]))
    allowed = [expert for group in groups[: router.groups_per_token] for expert in group]
    chosen = sorted(allowed, key=lambda e: -ranked[e])[:count]
    total = sum(float(affinity[e]) for e in chosen) if count > 1 else 1.0
    return {e: router.scale * float(affinity[e]) / total for e in chosen}


@pytest.mark.parametrize(("groups", "kept", "count"), [(1, 1, 3), (4, 2, 3), (4, 1, 1), (2, 2, 5), (6, 3, 6)])
def test_the_grouped_choice_is_its_definition(groups: int, kept: int, count: int) -> None:
    router = GroupedRouter(groups, kept, scale=1.7)
    generator = torch.Generator().manual_seed(groups)
    scores = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    bias = torch.randn(12, generator=generator, dtype=torch.float64)  # below 0 as well: closed groups stay closed
    found = router.choose(scores, count, bias)
    for row in range(len(scores)):
        expected = brute_force(scores[row], bias, router, count)
        got = dict(zip(found.experts[row].tolist(), found.weights[row].tolist(), strict=True))
        assert got.keys() == expected.keys()
        assert all(abs(got[e] - weight) < 1e-12 for e, weight in expected.items())


def test_a_mixture_in_groups_is_trained_and_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    router = GroupedRouter(2, 1)
    backbone = BidirectionalTransformer(
        VOCAB, 16, 2, 2, hidden_width=8, num_experts=4, experts_per_token=2, router=router, dense_layers=1,
        dense_width=12, rotary_dim=4,
    )  # fmt: skip
    ours = DiffusionLM(backbone, MaskingProcess(MASK), bound_draws=1)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_steps=1, enable_checkpointing=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(ours, DataLoader([{"tokens": row} for row in IDS], batch_size=2))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    kept = {name for name, tensor in ours.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == {"backbone.blocks.1.feed_forward.expert_bias"}
    again = DiffusionLM.load_from_checkpoint(tmp_path / "m.ckpt").eval()
    assert again.backbone.router == router
    assert torch.equal(again(IDS), ours.eval()(IDS))


def test_what_is_of_a_mixture_alone_is_refused_without_one() -> None:
    for options in ({"router": SoftmaxRouter()}, {"dense_layers": 1}, {"dense_width": 8}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is of a mixture of experts"):
            BidirectionalTransformer(VOCAB, 16, 1, 2, **options)
