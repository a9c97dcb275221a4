"""``llada convert``: the same weights, bit by bit, in another layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llada import DiffusionLM
from llada.checkpoints.checkpoint import read_checkpoint
from llada.cli import main
from llada.data import JsonTokenizer
from llada.text import load
from tests.cli.trainer_file import tiny_model, write_trainer_file
from tests.tiny_checkpoint import MASK, VOCAB_SIZE, WIDTH, write_checkpoint


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
    assert (backbone["init_args"]["width"], "vocab_size" in backbone["init_args"]) == (WIDTH, False)
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
    assert f"the mask is 2 for the model of {folder}, but 5 for the model's files" in capsys.readouterr().err


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


BESIDE = {
    "README.md": "# A model\n",
    "modeling_llada.py": "raise SystemExit('never run')\n",
    "generation_config.json": '{"temperature": 0.0}',
    "vocab.json": '{"a": 0}',
    "tokenization_llada.py": "raise SystemExit('never run')\n",
    "assets/logo.svg": "<svg/>",
    ".gitattributes": "*.safetensors filter=lfs\n",
}


@pytest.fixture
def full(folder, tmp_path):
    """The checkpoint with all that lies in a released folder."""
    source = tmp_path / "full"
    shutil.copytree(folder, source)
    for name, content in BESIDE.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    for name in ("pytorch_model.bin", "model.safetensors.index.json.bak"):
        (source / name).write_text("x")
    (source / ".cache").mkdir()
    (source / ".cache/lock").write_text("x")
    return source


def test_no_file_that_is_not_known_gets_lost(full, tmp_path, capsys):
    assert main(["convert", str(full), str(tmp_path / "out"), "--layout", "llada", "--max_shard_size", "30KB"]) == 0
    out = tmp_path / "out"
    assert {name: (out / name).read_text() for name in BESIDE} == BESIDE
    assert (out / "model.safetensors.index.json.bak").exists()
    assert (out / "tokenizer.json").read_bytes() == (full / "tokenizer.json").read_bytes()
    assert not (out / ".cache").exists()
    assert not (out / "pytorch_model.bin").exists()
    assert not (out / "model.safetensors").exists()  # the old one, where there are shards now
    said = capsys.readouterr().out
    assert "left out, as weights or pickles: pytorch_model.bin\n" in said
    assert said.endswith(f"next: llada chat {out}\n")


def test_a_base_model_is_sampled_next(full, tmp_path, capsys):
    settings = json.loads((full / "tokenizer_config.json").read_text())
    assert settings.pop("chat_template")
    (full / "tokenizer_config.json").write_text(json.dumps(settings))
    assert main(["convert", str(full), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith(f"next: llada sample {tmp_path / 'out'}\n")


def test_files_go_round_a_trainer_file(full, tmp_path):
    assert main(["convert", str(full), str(tmp_path / "start.ckpt")]) == 0
    assert main(["convert", str(tmp_path / "start.ckpt"), str(tmp_path / "out"), "--files_from", str(full)]) == 0
    assert (tmp_path / "out/modeling_llada.py").read_text() == BESIDE["modeling_llada.py"]
    assert (tmp_path / "out/assets/logo.svg").exists()
    assert not (tmp_path / "out/vocab.json").exists()  # the file's own tokenizer is another one, for all we know


def test_another_tokenizer_takes_the_place_of_all_its_files(full, tmp_path):
    other = write_checkpoint(tmp_path / "other")
    assert main(["convert", str(full), str(tmp_path / "out"), "--tokenizer", str(other)]) == 0
    assert not (tmp_path / "out/vocab.json").exists()
    assert (tmp_path / "out/README.md").exists()


@pytest.mark.parametrize("kind", ["folder", "trainer file"])
def test_links_that_lead_out_are_not_followed(full, tmp_path, capsys, kind):
    secret = tmp_path / "secret.txt"
    secret.write_text("root:x:0:0")
    (full / "chat_template.jinja").symlink_to(secret)
    (full / "NOTES.md").symlink_to("../secret.txt")
    (full / "home").symlink_to(tmp_path, target_is_directory=True)
    (full / "LICENSE").symlink_to("README.md")  # stays inside
    out = tmp_path / ("out" if kind == "folder" else "out.ckpt")
    assert main(["convert", str(full), str(out)]) == 0
    assert "lead out of the folder: NOTES.md, chat_template.jinja, home\n" in capsys.readouterr().out
    assert not any(b"root:x" in path.read_bytes() for path in tmp_path.glob("out*") if path.is_file())
    if kind == "folder":
        assert (out / "LICENSE").read_text() == BESIDE["README.md"]
        assert not any(b"root:x" in path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert not (out / "chat_template.jinja").exists()
    else:
        assert not any(b"root:x" in path.read_bytes() for path in (tmp_path / "out.tokenizer").iterdir())
        assert (
            b"root:x" not in read_checkpoint(out)["llada"]["tokenizer_files"]["tokenizer_config.json"].numpy().tobytes()
        )


def test_the_hubs_cache_is_one_folder_of_links(full, tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(path for path in full.iterdir() if path.is_file()):
        path.rename(repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "passwd").symlink_to("/etc/passwd")
    assert main(["convert", str(snapshot), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/README.md").read_text() == BESIDE["README.md"]
    assert not (tmp_path / "out/README.md").is_symlink()
    assert not (tmp_path / "out/passwd").exists()


def test_a_trainer_file_names_its_tokenizer_and_the_next_command_reads_it(full, tmp_path, capsys):
    assert main(["convert", str(full), str(tmp_path / "start.ckpt")]) == 0
    said = capsys.readouterr().out.splitlines()
    stem = tmp_path / "start"
    assert said[-1] == (
        "next: llada config finetune_chat > finetune.yaml && "
        f"llada fit --config finetune.yaml --config {stem}.json --config {stem}.tokenizer.json "
        f"--data.template.folder {stem}.tokenizer"
    )
    assert "modeling_llada.py" in said[-2]
    assert "tokenizer.json" not in said[-2]
    part = json.loads((tmp_path / "start.tokenizer.json").read_text())["data"]["init_args"]["tokenizer"]
    assert part == {"class_path": "llada.data.JsonTokenizer", "init_args": {"path": f"{stem}.tokenizer"}}
    words = JsonTokenizer(part["init_args"]["path"])
    assert words.fingerprint == read_checkpoint(tmp_path / "start.ckpt")["llada"]["tokenizer"]
    config, own = said[-1].removeprefix("next: ").split(" && ")
    assert main(config.removeprefix("llada ").partition(" > ")[0].split()) == 0
    file = tmp_path / "finetune.yaml"
    file.write_text(capsys.readouterr().out)
    command = [str(file) if word == "finetune.yaml" else word for word in own.split()[2:]]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *command, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["init_args"]["tokenizer"]["init_args"]["path"] == f"{stem}.tokenizer"
    assert printed["data"]["init_args"]["template"]["init_args"]["folder"] == f"{stem}.tokenizer"
    assert printed["model"]["backbone"]["init_args"]["width"] == WIDTH
    assert printed["init_from"] == f"{stem}.ckpt"


def test_remote_code_is_named_only_where_it_is(full, trainer_file, tmp_path, capsys):
    named = {
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoConfig": "elsewhere/code--configuration_llada.LLaDAConfig",
    }
    config = json.loads((full / "config.json").read_text()) | {"auto_map": named}
    (full / "config.json").write_text(json.dumps(config))
    assert main(["convert", str(full), str(tmp_path / "copy")]) == 0
    assert json.loads((tmp_path / "copy/config.json").read_text())["auto_map"] == named
    assert main(["convert", str(trainer_file), str(tmp_path / "from"), "--files_from", str(full)]) == 0
    assert json.loads((tmp_path / "from/config.json").read_text())["auto_map"] == named
    assert main(["convert", str(trainer_file), str(tmp_path / "bare")]) == 0
    assert "auto_map" not in json.loads((tmp_path / "bare/config.json").read_text())


def test_weights_of_another_model_are_told_in_short(trainer_file, tmp_path, capsys):
    stored = torch.load(trainer_file, weights_only=True)
    state = stored["state_dict"]
    for name in [name for name in state if "blocks.1." in name]:
        state[name.replace("blocks.1.", "layers.1.")] = state.pop(name)
    torch.save(stored, tmp_path / "other.ckpt")
    assert main(["convert", str(tmp_path / "other.ckpt"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert "9 missing, the first backbone.blocks.1.attention_norm.weight" in error
    assert "9 unknown, the first backbone.layers.1." in error
    state["backbone.head.weight"] = torch.ones(3, 3)
    torch.save(stored, tmp_path / "other.ckpt")
    assert main(["convert", str(tmp_path / "other.ckpt"), str(tmp_path / "out")]) == 1
    assert (
        f"backbone.head.weight of the shape ({VOCAB_SIZE}, {WIDTH}), but the weights there have (3, 3)"
        in capsys.readouterr().err
    )


def test_what_a_released_folder_does_not_tell_can_be_told_here(folder, tmp_path, capsys):
    other = tmp_path / "moe"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    mask = config.pop("mask_token_id")
    (other / "config.json").write_text(json.dumps(config | {"rope_ratio": 2}))
    assert main(["convert", str(other), str(tmp_path / "out")]) == 1
    assert "--ignore_config_field rope_ratio" in capsys.readouterr().err
    told = ["--ignore_config_field", "rope_ratio", "--backbone", "max_length=64", "--mask", "4"]
    (other / "tokenizer.json").rename(other / "spare.json")
    assert main(["convert", str(other), str(tmp_path / "out"), *told]) == 0
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["mask_token_id"], written["max_sequence_length"], "rope_ratio" in written) == (4, 64, False)
    (other / "spare.json").rename(other / "tokenizer.json")
    assert main(["convert", str(other), str(tmp_path / "found"), *told[:4]]) == 0  # by its spelling
    written = json.loads((tmp_path / "found/config.json").read_text())
    assert written["mask_token_id"] == mask


def test_options_for_folders_are_refused_for_a_file(trainer_file, tmp_path, capsys):
    for option in (
        ["--mask", "3"],
        ["--revision", "main"],
        ["--ignore_config_field", "a"],
        ["--backbone", "shift=true"],
    ):
        assert main(["convert", str(trainer_file), str(tmp_path / "out"), *option]) == 1
        assert f"{option[0]} is for released folders" in capsys.readouterr().err
    assert main(["convert", str(trainer_file), str(tmp_path / "out"), "--backbone", "shift"]) == 1
    assert "--backbone takes NAME=VALUE" in capsys.readouterr().err
