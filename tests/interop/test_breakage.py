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


SINGLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "there is no file .*config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "isn't valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "isn't valid JSON"),
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
    "tied with a head": (config(weight_tying=True), r"holds the tensor model\.transformer\.ff_out\.weight, which"),
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
    "index is no JSON": (lambda f: (f / INDEX).write_text("x"), "isn't valid JSON"),
    "no weight map": (index(lambda i: i.pop("weight_map")), "has no weight_map"),
    "weight map of numbers": (index(lambda i: i["weight_map"].update(a=1)), "has no weight_map"),
    "shard missing": (lambda f: shard(f).unlink(), "which isn't there"),
    "shard truncated": (lambda f: cut(shard(f)), "is damaged or truncated"),
    "shard elsewhere": (index(lambda i: i["weight_map"].update(a="../x.safetensors")), "which isn't in the folder"),
    "size is a lie": (index(lambda i: i["metadata"].update(total_size=1)), "states a total_size of 1 bytes"),
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
    shutil.copytree(made / "single", folder)
    path = folder / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
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
    torch.save({"state_dict": {}, "x": Path("a")}, path)
    with pytest.raises(ValueError, match="pickled Python objects"):
        DiffusionLM.from_pretrained(path)
    stored = torch.load(GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt", weights_only=True)
    stored["ema"]["shadow_params"].pop()
    torch.save(stored, path)
    with pytest.raises(ValueError, match="averages 19 tensors, but the network has 20"):
        DiffusionLM.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        DiffusionLM.from_pretrained(tmp_path / "absent.ckpt")
