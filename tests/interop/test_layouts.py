"""Sizes and features beyond the fixtures', each against a written-out formula; round trips; the 8B's arithmetic."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.interop import LAYOUTS
from llada.interop.pretrained import build_on_meta, layout_of, parse_size
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from tests.golden_models import GOLDEN
from tests.interop import plain

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
}


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
    with pytest.raises(ValueError, match="can't say convolution=3"):
        DiffusionLM(convolved, MaskingProcess(1)).save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match="layout 'olmo' is unknown"):
        DiffusionLM(dit, process).save_pretrained(tmp_path / "no", layout="olmo")


def test_saving_replaces_a_folder_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("llada")
    model.save_pretrained(tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("llada.interop.shards.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    torch.nn.init.zeros_(model.backbone.embedding.weight)
    model.save_pretrained(tmp_path / "out")
    assert not DiffusionLM.from_pretrained(tmp_path / "out").backbone.embedding.weight.any()


EIGHT_B = {
    "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288, "vocab_size": 126464,
    "embedding_size": 126464, "max_sequence_length": 4096, "rope_theta": 500000.0, "mask_token_id": 126336,
    "model_type": "llada",
}  # fmt: skip
ONE_B = {**EIGHT_B, "d_model": 2048, "n_kv_heads": 4, "n_layers": 22, "mlp_hidden_size": 5634}
DREAM_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 131072, "rope_theta": 1e6,
    "rms_norm_eps": 1e-6, "mask_token_id": 151666, "model_type": "Dream",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(EIGHT_B, 291, 8_015_581_184), (ONE_B, 201, 1_487_243_264), (DREAM_7B, 339, 7_615_616_512)],
    ids=["LLaDA-8B", "LLaDA-1B", "Dream-7B"],
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
