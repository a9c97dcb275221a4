"""Every way in which a checkpoint folder can lie gives one clear error, and none loads in part."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from tests.golden_models import GOLDEN

WTE = "model.transformer.wte.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("made")
    model = DiffusionLM(BidirectionalTransformer(11, width=8, num_layers=2, num_heads=2), MaskingProcess(10))
    model.save_pretrained(base / "single", layout="llada")
    model.save_pretrained(base / "shards", layout="llada", max_shard_size=1000)
    return base


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    content = load_file(path)
    change(content)
    save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)


def config(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda c: c.update(fields))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda c: c.pop(name))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder / "model.safetensors", change)


def index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / INDEX, change)


def shard(folder: Path) -> Path:
    return sorted(folder.glob("model-0*.safetensors"))[1]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def move_tensor(folder: Path) -> None:
    """The same tensor in two shards."""
    first, second, *_ = sorted(folder.glob("model-0*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    edit_weights(second, lambda w: w.update({name: tensor}))


def first_of(folder: Path) -> str:
    return next(iter(json.loads((folder / INDEX).read_text())["weight_map"]))


def config_text(old: str, new: str) -> Callable[[Path], Any]:
    path = "config.json"
    return lambda folder: (folder / path).write_text((folder / path).read_text().replace(old, new, 1))


SINGLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "there is no file .*config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "malformed JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "malformed JSON"),
    "field twice": (config_text('"n_heads": 2', '"n_heads": 2, "n_heads": 1'), "'n_heads' is there twice"),
    "nested too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "malformed JSON"),
    "text for a number": (config(n_layers="2"), "n_layers='2', but it must be a whole number, 1 or more"),
    "fraction of a layer": (config(n_layers=2.0), "n_layers=2.0, but it must be a whole number"),
    "no heads": (config(n_heads=0), "n_heads=0, but it must be a whole number, 1 or more"),
    "negative width": (config(d_model=-8), "d_model=-8, but it must be a whole number"),
    "true for a number": (config(d_model=True), "d_model=True, but it must be a whole number"),
    "infinite base": (config(rope_theta=float("inf")), "rope_theta=inf, but it must be a finite number, above 0"),
    "text for a flag": (config(weight_tying="false"), "weight_tying='false', but it must be true or false"),
    "a million layers": (
        config(n_layers=10**6),
        "asks for 1000000 layers or experts, but the files hold only 21 tensors",
    ),
    "impossible width": (config(d_model=2 * 10**15, n_heads=10**15), "config.json: width must be a whole number"),
    "mask beyond the rows": (config(mask_token_id=12), "mask_token_id=12 has no row in the embedding, which has 11"),
    "another default": (without("rope"), "no field 'rope'"),
    "two ways of sharing keys": (config(multi_query_attention=True), "multi_query_attention=True, but n_kv_heads=2"),
    "biases on a tied head": (config(include_bias=True, weight_tying=True), "can't be loaded together"),
    "unknown family": (config(model_type="gpt9"), "model_type='gpt9'"),
    "field missing": (without("n_layers"), "no field 'n_layers'"),
    "no mask": (without("mask_token_id"), "names no mask_token_id"),
    "alibi": (config(alibi=True), "alibi=True, but only False"),
    "layer norm": (config(layer_norm_type="default"), "layer_norm_type='default', but only 'rms'"),
    "block type": (config(block_type="sequential"), "block_type='sequential'"),
    "dropout": (config(attention_dropout=0.1), "attention_dropout=0.1"),
    "scaled logits": (config(scale_logits=True), "scale_logits=True"),
    "unknown field": (config(rotary_fraction=0.5), "the field rotary_fraction=0.5, which isn't understood"),
    "sizes don't divide": (config(n_heads=3), "isn't divisible"),
    "kv heads don't divide": (config(n_heads=4, n_kv_heads=3), "must divide num_heads"),
    "more layers": (config(n_layers=3), r"lacks the tensor model\.transformer\.blocks\.2\."),
    "fewer layers": (config(n_layers=1), r"holds the tensor model\.transformer\.blocks\.1\.\S+, which a llada"),
    "other width": (config(mlp_hidden_size=16), r"ff_\w+\.weight has shape|up_proj\.weight has shape"),
    "other vocabulary": (config(embedding_size=12), "has shape .*, but config.json asks for"),
    "untied without a head": (
        weights(lambda w: w.pop("model.transformer.ff_out.weight")),
        r"lacks the tensor model\.transformer\.ff_out\.weight\n.*tie_embeddings=True \(--backbone tie_embeddings=true",
    ),
    "names of LLaMA": (
        lambda f: edit_json(f / "config.json", lambda c: c.update(hidden_size=c.pop("d_model"))),
        r"model_type='llada', but neither the field 'num_experts' \(llada_moe\) nor 'd_model' \(llada\)",
    ),
    "no family": (without("model_type"), "no field 'model_type'"),
    "tensor missing": (weights(lambda w: w.pop(WTE)), "lacks the tensor " + WTE.replace(".", r"\.")),
    "tensor unknown": (weights(lambda w: w.update(extra=torch.ones(2))), "holds the tensor extra, which"),
    "tensor mis-shaped": (weights(lambda w: w.update({WTE: w[WTE].T})), "wte.weight has shape"),
    "tensor twice": (
        weights(lambda w: w.update({"embedding.weight": w[WTE].clone()})),
        "holds embedding.weight twice",
    ),
    "integers": (weights(lambda w: w.update({WTE: w[WTE].int()})), "in I32, but weights are floating-point"),
    "booleans": (weights(lambda w: w.update({WTE: w[WTE].bool()})), "in BOOL, which isn't supported"),
    "truncated": (lambda f: cut(f / "model.safetensors"), "is damaged or truncated"),
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged or truncated"),
    "text file": (lambda f: (f / "model.safetensors").write_text("hello, this is text"), "is damaged or truncated"),
    "pickle": (pickled, "holds pickled weights .*pytorch_model.bin.* write safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "both forms": (lambda f: (f / INDEX).write_text("{}"), "has both"),
}
SHARDED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "index is no JSON": (lambda f: (f / INDEX).write_text("x"), "malformed JSON"),
    "index says it twice": (
        lambda f: (f / INDEX).write_text((f / INDEX).read_text().replace("{", '{"weight_map": {},', 1)),
        "'weight_map' is there twice",
    ),
    "no weight map": (index(lambda i: i.pop("weight_map")), "has no weight_map"),
    "weight map of numbers": (index(lambda i: i["weight_map"].update(a=1)), "has no weight_map"),
    "shard missing": (lambda f: shard(f).unlink(), "which isn't there"),
    "shard truncated": (lambda f: cut(shard(f)), "is damaged or truncated"),
    "shard elsewhere": (index(lambda i: i["weight_map"].update(a="../x.safetensors")), "which isn't in the folder"),
    "tensor not listed": (lambda f: index(lambda i: i["weight_map"].pop(first_of(f)))(f), "doesn't list it"),
    "tensor listed, not there": (
        lambda f: index(lambda i: i["weight_map"].update(ghost=shard(f).name))(f),
        "lists the tensor ghost",
    ),
    "tensor in two shards": (move_tensor, "lists it in"),
    "tensor listed in the wrong shard": (
        lambda f: index(lambda i: i["weight_map"].update({first_of(f): shard(f).name}))(f),
        "lists it in|doesn't hold it",
    ),
}


@pytest.mark.parametrize("case", SINGLE)
def test_a_broken_folder_is_refused(made: Path, tmp_path: Path, case: str) -> None:
    change, message = SINGLE[case]
    shutil.copytree(made / "single", tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DiffusionLM.from_pretrained(tmp_path / "copy")


@pytest.mark.parametrize("case", SHARDED)
def test_a_broken_sharded_folder_is_refused(made: Path, tmp_path: Path, case: str) -> None:
    change, message = SHARDED[case]
    shutil.copytree(made / "shards", tmp_path / "copy")
    DiffusionLM.from_pretrained(tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DiffusionLM.from_pretrained(tmp_path / "copy")


@settings(max_examples=150)
@given(data=st.data())
def test_random_damage_never_loads_wrong_shapes(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "copy"
    form = data.draw(st.sampled_from(["single", "shards"]))
    shutil.copytree(made / form, folder)
    path = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    content = bytearray(path.read_bytes())
    # The header is where shapes, names and offsets are: half of the damage goes there.
    reach = data.draw(st.sampled_from([min(len(content), 1500), len(content)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, reach - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        model = DiffusionLM.from_pretrained(folder)
    except (ValueError, FileNotFoundError):
        return  # any other exception fails the test
    finally:
        shutil.rmtree(folder)
    fresh = type(model.backbone)(**{k: getattr(model.backbone, k) for k in ("vocab_size", "width", "num_layers",
        "num_heads", "num_kv_heads", "hidden_width", "tie_embeddings", "bias", "qkv_bias")})  # fmt: skip
    expected = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.backbone.state_dict().items()} == expected


@pytest.mark.parametrize("change", [lambda n: 1, lambda n: n + 4096, str, lambda n: n / 3, lambda n: [n]])
def test_a_wrong_total_size_is_told_and_does_no_harm(made: Path, tmp_path: Path, change: Callable[[int], Any]) -> None:
    shutil.copytree(made / "shards", tmp_path / "copy")
    index(lambda i: i["metadata"].update(total_size=change(i["metadata"]["total_size"])))(tmp_path / "copy")
    with pytest.warns(UserWarning, match="states a total_size of .* bytes, but the shards hold 15200"):
        loaded = DiffusionLM.from_pretrained(tmp_path / "copy")
    right = DiffusionLM.from_pretrained(made / "shards")
    assert all(torch.equal(value, right.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_tensors_that_do_not_fit_are_told_in_three_lines(made: Path, tmp_path: Path) -> None:
    def spoil(content: dict[str, torch.Tensor]) -> None:
        for layer in (0, 1):
            for name in ("q_proj", "k_proj", "v_proj"):
                content.pop(f"model.transformer.blocks.{layer}.{name}.weight")
                content[f"model.transformer.blocks.{layer}.{name}.lora"] = torch.ones(3)
            content[f"model.transformer.blocks.{layer}.attn_norm.weight"] = torch.ones(5)

    shutil.copytree(made / "single", tmp_path / "copy")
    weights(spoil)(tmp_path / "copy")
    with pytest.raises(ValueError, match="lacks the tensor") as error:
        DiffusionLM.from_pretrained(tmp_path / "copy")
    lines = str(error.value).splitlines()
    assert [line[-15:] for line in lines] == ["(6 such in all)", "(6 such in all)", "(2 such in all)"]
    assert "attn_norm.weight has shape (5,), but config.json asks for (8,)" in lines[2]


def test_a_folder_that_is_not_there() -> None:
    for name in ("nowhere", "/nowhere/at/all", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            DiffusionLM.from_pretrained(name)


def test_a_config_that_asks_the_moon_takes_no_memory(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "single", tmp_path / "copy")
    config(d_model=2**20, n_heads=2, mlp_hidden_size=2**24)(tmp_path / "copy")
    with pytest.raises(ValueError, match="has shape"):  # built on the meta device, so nothing was allocated
        DiffusionLM.from_pretrained(tmp_path / "copy")


def test_damaged_and_foreign_training_checkpoints(tmp_path: Path) -> None:
    good = (GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt").read_bytes()
    path = tmp_path / "x.ckpt"
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="damaged"):
        DiffusionLM.from_pretrained(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="isn't a training checkpoint of MDLM"):
        DiffusionLM.from_pretrained(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="must hold a dictionary; got a list"):
        DiffusionLM.from_pretrained(path)
    for change, message in (
        ({"parameterization": "d3pm"}, "parameterization='d3pm', but only 'subs'"),
        ({"backbone": "dimamba"}, "backbone='dimamba', but only 'dit'"),
        ({"model": {}}, "isn't a training checkpoint of MDLM, UDLM or Duo: it lacks 'cond_dim'"),
    ):
        stored = torch.load(GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt", weights_only=True)
        stored["hyper_parameters"]["config"] |= change
        torch.save(stored, path)
        with pytest.raises(ValueError, match=message):
            DiffusionLM.from_pretrained(path)
    stored = torch.load(GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt", weights_only=True)
    stored["ema"]["shadow_params"].pop()
    torch.save(stored, path)
    with pytest.raises(ValueError, match="averages 19 tensors, but the network has 20"):
        DiffusionLM.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        DiffusionLM.from_pretrained(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("change", [{"rms_norm_eps": 0}, {"multi_query_attention": False}, {"mlp_hidden_size": None}])
def test_other_spellings_of_the_same(made: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(made / "single", tmp_path / "copy")
    hidden = json.loads((made / "single/config.json").read_text())["mlp_hidden_size"]
    config(mlp_ratio=hidden // 8, **change)(tmp_path / "copy")
    assert DiffusionLM.from_pretrained(tmp_path / "copy").backbone.hidden_width == hidden


def test_a_dtype_that_weights_cannot_have(made: Path) -> None:
    for dtype in (torch.int8, torch.bool, "bfloat16"):
        with pytest.raises(ValueError, match=r"such as torch\.bfloat16"):
            DiffusionLM.from_pretrained(made / "single", dtype=dtype)


def test_wavelengths_must_be_those_of_the_configuration(tmp_path: Path) -> None:
    name = "backbone.rotary_emb.inv_freq"
    shutil.copytree(GOLDEN / "mdlm-dit-tiny/checkpoint", tmp_path / "mdlm")
    weights(lambda w: w.update({name: w[name].bfloat16()}))(tmp_path / "mdlm")
    DiffusionLM.from_pretrained(tmp_path / "mdlm")
    weights(lambda w: w.update({name: w[name] ** 1.1}))(tmp_path / "mdlm")
    with pytest.raises(ValueError, match=r"inv_freq isn't what config\.json asks for"):
        DiffusionLM.from_pretrained(tmp_path / "mdlm")
    shutil.copytree(GOLDEN / "dream-tiny/checkpoint", tmp_path / "dream")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"  # old checkpoints have it
    right = 1e6 ** -(torch.arange(0, 12, 2) / 12)
    weights(lambda w: w.update({name: right}))(tmp_path / "dream")
    DiffusionLM.from_pretrained(tmp_path / "dream")
    weights(lambda w: w.update({name: right[:3]}))(tmp_path / "dream")
    with pytest.raises(ValueError, match="inv_freq isn't what"):
        DiffusionLM.from_pretrained(tmp_path / "dream")


LLAMA_STYLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "scaled rotation": (config(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling=.*, but only None"),
    "another rotation": (config(rope_parameters={"rope_type": "yarn"}), "only the default rotation"),
    "half a rotation": (config(rope_parameters={"partial_rotary_factor": 0.5}), "only the default rotation"),
    "rotation of text": (config(rope_parameters="default"), "only the default rotation"),
    "sliding window": (config(use_sliding_window=True), "use_sliding_window=True"),
    "sliding layers": (config(layer_types=["sliding_attention"] * 3), "layer_types=.*, but only"),
    "activation": (config(hidden_act="gelu"), "hidden_act='gelu', but only 'silu'"),
    "biases in the perceptron": (config(mlp_bias=True), "mlp_bias=True"),
    "no size": (without("hidden_size"), r"config\.json has no field 'hidden_size'"),
    "odd heads": (config(num_attention_heads=24), "needs an even head width"),
    "quantised": (config(quantization_config={"bits": 4}), "the field quantization_config=.* isn't understood"),
}


@pytest.mark.parametrize("case", LLAMA_STYLE)
def test_a_broken_llama_style_folder_is_refused(tmp_path: Path, case: str) -> None:
    change, message = LLAMA_STYLE[case]
    shutil.copytree(GOLDEN / "dream-tiny/checkpoint", tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(ValueError, match=message):
        DiffusionLM.from_pretrained(tmp_path / "copy")


MIXTURE: dict[str, Any] = {
    "norm_topk_prob": True, "moe_layer_freq": [0, 1], "routed_scaling_factor": 2.5, "partial_rotary_factor": 0.5,
    "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True, "qk_layernorm": False,
    "clip_qkv": 8.0, "router_num_group": 8, "num_experts_per_tok": 5, "num_experts": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", MIXTURE)
def test_another_mixture_is_refused(tmp_path: Path, name: str) -> None:
    backbone = BidirectionalTransformer(
        11, width=8, num_layers=2, num_heads=2, qk_norm=True, num_experts=4, experts_per_token=2
    )
    DiffusionLM(backbone, MaskingProcess(10)).save_pretrained(tmp_path / "moe")
    DiffusionLM.from_pretrained(tmp_path / "moe")
    config(**{name: MIXTURE[name]})(tmp_path / "moe")
    with pytest.raises(ValueError, match="experts_per_token" if name == "num_experts_per_tok" else name):
        DiffusionLM.from_pretrained(tmp_path / "moe")
