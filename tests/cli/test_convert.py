"""``llada convert``: the same weights, bit by bit, in another layout."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llada import DiffusionLM
from llada.checkpoints.checkpoint import read_checkpoint
from llada.cli import main
from llada.text import load
from tests.cli.trainer_file import tiny_model, write_trainer_file
from tests.tiny_checkpoint import MASK, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def trainer_file(folder):
    return write_trainer_file(folder, folder.parent / "trained.ckpt", seed=3)


def tensors(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_a_folder_goes_to_a_trainer_file_and_back(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "start.ckpt")]) == 0
    assert "parameters written to" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "start.ckpt"), str(tmp_path / "back")]) == 0
    assert same(tensors(folder), tensors(tmp_path / "back"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (folder / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert {name: ours.get(name) for name in theirs} == theirs


def test_a_trained_model_goes_out_with_its_tokenizer(trainer_file, tmp_path):
    assert main(["convert", str(trainer_file), str(tmp_path / "out")]) == 0
    text = load(str(tmp_path / "out"), None, "cpu")
    model, tokenizer = text.model, text.tokenizer
    assert same(model.state_dict(), tiny_model(seed=3).state_dict())
    assert tokenizer.fingerprint == read_checkpoint(trainer_file)["llada"]["tokenizer"]


def test_dtype_and_shards(trainer_file, tmp_path):
    out = tmp_path / "out"
    assert main(["convert", str(trainer_file), str(out), "--dtype", "bfloat16", "--max_shard_size", "30KB"]) == 0
    assert len(list(out.glob("*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    found = tensors(out)
    assert set(index["weight_map"]) == set(found)
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    kept = load(str(out), None, "cpu").model.state_dict()
    rounded = {name: value.to(torch.bfloat16) for name, value in tiny_model(seed=3).state_dict().items()}
    assert same(kept, rounded)


def test_the_configuration_beside_a_trainer_file_names_what_belongs_to_the_weights(folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "start.ckpt")]) == 0
    content = json.loads((tmp_path / "start.json").read_text())
    assert content["init_from"] == str(tmp_path / "start.ckpt")
    backbone = content["model"]["backbone"]
    assert backbone["class_path"].endswith("BidirectionalTransformer")
    assert (backbone["init_args"]["width"], "vocab_size" in backbone["init_args"]) == (32, False)
    assert "mask_token_id" not in content["model"]["process"]
    assert DiffusionLM.load_from_checkpoint(tmp_path / "start.ckpt").process.mask_token_id == MASK


def test_what_is_there_is_never_overwritten(folder, trainer_file, tmp_path, capsys):
    before = trainer_file.read_bytes()
    assert main(["convert", str(folder), str(trainer_file)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(trainer_file), str(folder)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert trainer_file.read_bytes() == before


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path, capsys):
    other = write_checkpoint(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"mask_token_id": 5}))
    assert main(["convert", str(folder), str(tmp_path / "out"), "--tokenizer", str(other)]) == 1
    assert "the mask is 2 for the model, but 5 for the model's files" in capsys.readouterr().err


GOLDEN = Path(__file__).parent.parent / "golden"


def test_weights_without_a_tokenizer_change_their_layout(tmp_path):
    assert main(["convert", str(GOLDEN / "dream-tiny" / "checkpoint"), str(tmp_path / "out"), "--layout", "qwen2"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen2"
    assert same(tensors(tmp_path / "out"), tensors(GOLDEN / "dream-tiny" / "checkpoint"))


def test_a_layout_that_has_no_word_for_the_model_is_refused(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "out"), "--layout", "dream"]) == 1
    assert "the dream layout can't say qkv_bias=False" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mdlms_training_files_give_their_averaged_weights(tmp_path):
    source = GOLDEN / "mdlm-dit-tiny" / "lightning" / "mdlm_tiny.ckpt"
    assert main(["convert", str(source), str(tmp_path / "out"), "--mdlm"]) == 0
    shadows = torch.load(source, weights_only=True)["ema"]["shadow_params"]
    written = tensors(tmp_path / "out")
    assert sum(value.numel() for value in written.values()) >= sum(value.numel() for value in shadows)
    assert all(any(value.shape == w.shape and torch.equal(value, w) for w in written.values()) for value in shadows)


def test_what_is_no_checkpoint_is_named(tmp_path, capsys):
    for source in ("no/such/folder", str(tmp_path), str(tmp_path / "missing.ckpt")):
        assert main(["convert", source, str(tmp_path / "out")]) == 1
        assert source in capsys.readouterr().err
