"""Sizes and features beyond the fixtures', each against a written-out formula; round trips; the 8B's arithmetic."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.checkpoints.released import LAYOUTS
from llada.checkpoints.released.families import layout_of
from llada.checkpoints.released.materialise import build_on_meta
from llada.checkpoints.released.pretrained_out import parse_size
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from tests.checkpoints import plain
from tests.golden_models import GOLDEN

VOCAB = 37
CASES: dict[str, dict[str, Any]] = {
    "llada": {"layout": "llada"},
    "llada_grouped": {"layout": "llada", "num_kv_heads": 2},
    "llada_multi_query": {"layout": "llada", "num_kv_heads": 1},
    "llada_tied": {"layout": "llada", "tie_embeddings": True},
    "llada_biases": {"layout": "llada", "bias": True, "qkv_bias": True},
    "llada_qkv_bias": {"layout": "llada", "qkv_bias": True},
    "illada": {"layout": "llada", "num_kv_heads": 2, "tie_embeddings": True},
    "dream": {"layout": "dream", "num_kv_heads": 2, "qkv_bias": True, "shift": True},
    "dream_tied": {"layout": "dream", "tie_embeddings": True, "qkv_bias": True, "shift": True},
    "qwen3_head_dim": {"layout": "qwen3", "head_dim": 12, "qk_norm": True, "shift": True},
    "llama": {"layout": "llama", "num_kv_heads": 2, "shift": True},
    "llada_moe": {"layout": "llada_moe", "qk_norm": True, "num_experts": 6, "experts_per_token": 2},
    "llada_moe_shared": {"layout": "llada_moe", "qk_norm": True, "num_experts": 4, "experts_per_token": 3,
                         "shared_width": 20, "num_kv_heads": 2},
}  # fmt: skip


def build(name: str) -> tuple[DiffusionLM, str]:
    torch.manual_seed(0)
    options = dict(CASES[name])
    layout = options.pop("layout")
    backbone = BidirectionalTransformer(VOCAB, width=32, num_layers=3, num_heads=4, hidden_width=48, **options)
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return DiffusionLM(backbone, MaskingProcess(mask_token_id=5)), layout


@pytest.mark.parametrize("name", CASES)
def test_against_the_formula(name: str, tmp_path: Path) -> None:
    model, layout = build(name)
    model.save_pretrained(tmp_path / "out", layout=layout)
    again = DiffusionLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    ids = torch.randint(VOCAB, (2, 7))
    expected = plain.logits(tmp_path / "out", ids)
    if again.backbone.shift:
        expected = torch.cat((expected[:, :1], expected[:, :-1]), 1)
    torch.testing.assert_close(again(ids), expected, rtol=1e-9, atol=1e-9)
    assert again.process.mask_token_id == 5


@pytest.mark.parametrize("shard", ["5GB", 9000, 1])
@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_changes_nothing(name: str, shard: int | str, tmp_path: Path) -> None:
    model, layout = build(name)
    model.save_pretrained(tmp_path / "a", layout=layout, max_shard_size=shard)
    again = DiffusionLM.from_pretrained(tmp_path / "a")
    assert layout_of(again.pretrained_config).name == layout
    for name_, tensor in model.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name_], tensor), name_
    again.save_pretrained(tmp_path / "b", max_shard_size=shard)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == files
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert (len(files) > 2) == (shard != "5GB")
    if again.backbone.tie_embeddings:
        assert again.backbone.head.weight is again.backbone.embedding.weight


@pytest.mark.parametrize("name", ["llada-tiny/checkpoint", "dream-tiny/checkpoint", "mdlm-dit-tiny/checkpoint",
                                  "mdlm-dit-tiny/checkpoint_time_conditioned"])  # fmt: skip
def test_what_we_save_has_the_released_names_shapes_and_fields(name: str, tmp_path: Path) -> None:
    DiffusionLM.from_pretrained(GOLDEN / name).save_pretrained(tmp_path / "out")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", GOLDEN / name))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-6, atol=0)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", GOLDEN / name)]
    assert configs[0] == configs[1]


def test_our_own_model_is_saved_in_the_layout_that_can_say_it(tmp_path: Path) -> None:
    dit = DiffusionTransformer(VOCAB, width=16, num_layers=1, num_heads=2, cond_width=8, max_length=9)
    process = MaskingProcess(VOCAB - 1, LinearSchedule(1e-3), time_conditioned=True, predicts_mask=False)
    DiffusionLM(dit, process).save_pretrained(tmp_path / "dit")
    assert DiffusionLM.from_pretrained(tmp_path / "dit").process == process
    convolved = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2, convolution=3)
    with pytest.raises(ValueError, match="can't say convolution=3") as raised:
        DiffusionLM(convolved, MaskingProcess(1)).save_pretrained(tmp_path / "no")
    assert str(raised.value).count("\n") == 0
    assert len(str(raised.value)) < 400
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match="layout 'olmo' is unknown"):
        DiffusionLM(dit, process).save_pretrained(tmp_path / "no", layout="olmo")


def test_what_no_layout_can_say_is_refused(tmp_path: Path) -> None:
    small: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2}
    tied = BidirectionalTransformer(VOCAB, tie_embeddings=True, bias=True, qkv_bias=True, **small)
    with pytest.raises(ValueError, match="can't say bias=True with tie_embeddings=True"):
        DiffusionLM(tied, MaskingProcess(1)).save_pretrained(tmp_path / "no", layout="llada")
    timed = MaskingProcess(1, LinearSchedule(1e-3), time_conditioned=True)
    with pytest.raises(ValueError, match="can't say time_conditioned=True"):
        DiffusionLM(BidirectionalTransformer(VOCAB, **small), timed).save_pretrained(tmp_path / "no", layout="llada")
    causal = BidirectionalTransformer(VOCAB, causal=True, shift=True, **small)
    with pytest.raises(ValueError, match="can't say causal=True"):
        DiffusionLM(causal, MaskingProcess(1)).save_pretrained(tmp_path / "no", layout="llama")
    assert not (tmp_path / "no").exists()


def test_the_tokenizer_gives_the_configuration_its_special_tokens(tmp_path: Path) -> None:
    class Words:
        bos_token_id, eos_token_id, pad_token_id = None, 2, 3

        def save(self, folder: Path) -> None:
            (Path(folder) / "tokenizer.json").write_text("{}")

    model, _ = build("llada")
    model.save_pretrained(tmp_path / "out", tokenizer=Words())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 3)
    assert "bos_token_id" not in config
    model.pretrained_config = config | {"eos_token_id": 7, "pad_token_id": -1}  # -1 stands for none
    model.save_pretrained(tmp_path / "out", tokenizer=Words())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (7, 3)


def test_each_tensor_keeps_its_own_dtype(tmp_path: Path) -> None:
    model, _ = build("llada_moe")
    model.backbone.to(torch.bfloat16)
    for block in model.backbone.blocks:
        block.feed_forward.router.float()
    model.save_pretrained(tmp_path / "out")
    again = DiffusionLM.from_pretrained(tmp_path / "out").backbone.state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert again[name].dtype == tensor.dtype == (torch.float32 if "router" in name else torch.bfloat16)
        assert torch.equal(again[name], tensor)


@pytest.mark.parametrize("name", ["final_norm", "head", "blocks.0.attention.q_proj"])
def test_dtypes_that_can_not_be_multiplied_are_told(name: str, tmp_path: Path) -> None:
    """Checkpoints with norms or a head in float32 are about; they are kept, and run when one dtype is asked for."""
    model, _ = build("dream")
    model.backbone.to(torch.bfloat16).get_submodule(name).float()
    model.save_pretrained(tmp_path / "out")
    message = rf"in torch.bfloat16, but {name}\.weight in torch.float32; .*\(--dtype bfloat16\)"
    with pytest.warns(UserWarning, match=message):
        again = DiffusionLM.from_pretrained(tmp_path / "out")
    assert again.backbone.get_submodule(name).weight.dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = DiffusionLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert whole(torch.arange(6)[None]).dtype == torch.bfloat16


EIGHT_B = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
    "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
    "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mask_token_id": 126336, "max_sequence_length": 4096, "mlp_hidden_size": 12288,
    "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32,
    "n_layers": 32, "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5,
    "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "transformers_version": "4.46.3", "use_cache": False, "vocab_size": 126464, "weight_tying": False,
}  # fmt: skip
ONE_B = {**EIGHT_B, "d_model": 2048, "n_kv_heads": 4, "n_layers": 22, "mlp_hidden_size": 5634}
ILLADA_8B = {
    **EIGHT_B, "n_kv_heads": 8, "mlp_hidden_size": 14336, "vocab_size": 155136, "embedding_size": 155136,
    "weight_tying": True, "max_sequence_length": 8192, "mask_token_id": 5,
}  # fmt: skip
LLADA_MOE = {
    "attention_bias": False, "clip_qkv": None, "dense_intermediate_size": 8192, "expert_intermediate_size": 1024,
    "hidden_act": "silu", "hidden_size": 2048, "max_position_embeddings": 8192, "model_type": "llada",
    "moe_layer_freq": [1] * 16, "norm_topk_prob": None, "num_attention_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16, "qk_layernorm": True,
    "rms_norm_eps": 1e-5, "rope_theta": 50000, "router_aux_loss_coef": 0.01, "routed_scaling_factor": 1,
    "partial_rotary_factor": 1, "shared_expert_intermediate_size": None, "tie_word_embeddings": False,
    "vocab_size": 157184, "mask_token_id": 156895,
}  # fmt: skip
DREAM_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 131072, "rope_theta": 1e6,
    "rms_norm_eps": 1e-6, "mask_token_id": 151666, "model_type": "Dream",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [
        (EIGHT_B, 291, 8_015_581_184),
        (ONE_B, 201, 1_487_243_264),
        (ILLADA_8B, 290, 7_615_025_152),
        (DREAM_7B, 339, 7_615_616_512),
        (LLADA_MOE, 3219, 7_356_880_896),
    ],
    ids=["LLaDA-8B", "LLaDA-1B", "iLLaDA-8B", "Dream-7B", "LLaDA-MoE-7B-A1B"],
)
def test_released_sizes_on_the_meta_device(config: dict[str, Any], tensors: int, parameters: int) -> None:
    layout = layout_of(config)
    backbone = build_on_meta(layout.read(config, None), {})
    assert all(parameter.is_meta for parameter in backbone.parameters())
    names = [layout.theirs(name) for name, _ in backbone.named_parameters()]
    assert len(set(names)) == tensors
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert all(
        layout.ours(theirs) == ours for theirs, (ours, _) in zip(names, backbone.named_parameters(), strict=True)
    )
    if config is EIGHT_B:
        written = layout.write(backbone, MaskingProcess(126336))
        tokens_and_version = {"eos_token_id", "pad_token_id", "transformers_version"}  # of the tokenizer and the writer
        assert written == {name: value for name, value in config.items() if name not in tokens_and_version}
        assert 2 * parameters == 16_031_162_368  # total_size of the released index, in bfloat16
        assert "model.transformer.blocks.31.ff_out.weight" in names
        assert "model.transformer.ff_out.weight" in names


def test_embedding_rows_beyond_the_vocabulary(tmp_path: Path) -> None:
    model, _ = build("llada")
    model.save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    config["vocab_size"] = VOCAB - 4
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    assert DiffusionLM.from_pretrained(tmp_path / "out").backbone.vocab_size == VOCAB


def test_every_layout_is_found_by_its_own_configuration() -> None:
    for name in CASES:
        model, layout = build(name)
        (chosen,) = (candidate for candidate in LAYOUTS if candidate.name == layout)
        assert layout_of(chosen.write(model.backbone, model.process)) == chosen


def test_an_autoregressive_checkpoint_needs_a_mask(tmp_path: Path) -> None:
    model, layout = build("llama")
    model.save_pretrained(tmp_path / "out", layout=layout)
    config = json.loads((tmp_path / "out/config.json").read_text())
    del config["mask_token_id"]
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="give one with mask_token_id="):
        DiffusionLM.from_pretrained(tmp_path / "out")
    assert DiffusionLM.from_pretrained(tmp_path / "out", mask_token_id=3).process.mask_token_id == 3
    with pytest.raises(ValueError, match="mask_token_id=38 has no row in the embedding, which has 37"):
        DiffusionLM.from_pretrained(tmp_path / "out", mask_token_id=38)


def test_options_reach_the_backbone() -> None:
    folder = GOLDEN / "llada-tiny/checkpoint"
    model = DiffusionLM.from_pretrained(folder, activation_checkpointing=True, attention="plain")
    assert model.backbone.activation_checkpointing
    with pytest.raises(ValueError, match=r"can't be built from config\.json"):
        DiffusionLM.from_pretrained(folder, flash=True)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), (17, 17), ("20", 20)])
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["five", "0", -1, "5TB", ""])
def test_bad_sizes_are_named(text: int | str) -> None:
    with pytest.raises(ValueError, match="a size must be"):
        parse_size(text)


def test_a_stored_dtype_is_kept_and_another_can_be_asked_for(tmp_path: Path) -> None:
    model, _ = build("llada")
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "half/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert DiffusionLM.from_pretrained(tmp_path / "half").backbone.embedding.weight.dtype == torch.bfloat16
    assert (
        DiffusionLM.from_pretrained(tmp_path / "half", dtype=torch.float32).backbone.embedding.weight.dtype
        == torch.float32
    )


def test_shards_cut_anywhere_and_in_any_order(tmp_path: Path) -> None:
    model, _ = build("dream")
    model.save_pretrained(tmp_path / "one", layout="dream")
    weights = load_file(tmp_path / "one/model.safetensors")
    names = sorted(weights, key=lambda name: name[::-1])
    (tmp_path / "many").mkdir()
    weight_map = {}
    for number in range(4):
        file = f"part{number}.safetensors"
        save_file({name: weights[name] for name in names[number::4]}, tmp_path / "many" / file)
        weight_map |= dict.fromkeys(names[number::4], file)
    (tmp_path / "many/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "many/config.json").write_text((tmp_path / "one/config.json").read_text())
    again = DiffusionLM.from_pretrained(tmp_path / "many")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], tensor)
