"""Every YAML file that is shipped, by the commands that take it."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.consolidate import consolidate
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.objectives import (
    CertaintyForcing,
    ConsistencyDistillation,
    InsertionNELBO,
    Objective,
    RandomLength,
    SelfDistillation,
    TrajectoryDistillation,
    llada_finetuning,
    llada_pretraining,
)
from tests.cli.conftest import CONFIGS, QUIET, SHORT, SMALL, Command, checkpoint_in, text
from tests.ranks import run_two_ranks


@pytest.mark.parametrize("name", ["demo", "pretrain_llada", "mdlm", "own_parts"])
def test_shipped_configurations_train_validate_predict_and_resume(llada: Command, story: Path, name: str) -> None:
    options = ["--config", CONFIGS / f"{name}.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    if name in ("demo", "pretrain_llada"):
        options.append("--model.backbone.hidden_width=32")
    run = llada("fit", *options)
    assert run.code == 0, run.err
    path = checkpoint_in(Path.cwd())
    assert read_checkpoint(path)["global_step"] == 3
    saved, following = run.out.splitlines()[-2:]
    shown = path.relative_to(Path.cwd())
    assert re.fullmatch(rf"saved {shown} at step 3; best val/nll \d+\.\d{{4}} at step 2", saved)
    assert following == f"next: llada sample {shown}" + (" --trust examples" if name == "own_parts" else "")
    model = DiffusionLM.load_from_checkpoint(path)
    assert model.backbone.width == 16
    if name == "pretrain_llada":  # the paper's parts
        assert model.objective == RandomLength(llada_pretraining(1e-3), 0.01)
        assert (model.process.schedule, model.process.time_conditioned) == (LinearSchedule(), False)
        assert model.process.predicts_mask
        assert model.optimizer.keywords["weight_decay"] == 0.1

    if name in ("demo", "mdlm"):  # without and with a time that the network is told
        run = llada("validate", *options, "--ckpt_path", path)
        assert run.code == 0, run.err
        assert "val/nll" in run.out
        assert "val/bits_per_byte_se" in run.out

        run = llada("predict", *options, "--ckpt_path", path, "--trainer.limit_predict_batches=1")
        assert run.code == 0, run.err
        rows = [json.loads(line) for line in run.out.splitlines() if line.startswith("{")]
        assert len(rows) == 4
        assert all(row["generated"] == 8 and 1 <= row["calls"] <= 8 for row in rows)
        assert all("boat" in row["text"] or "river" in row["text"] for row in rows)  # the half that was given

    run = llada("fit", *options, "--ckpt_path", path, "--trainer.max_steps=5")
    assert run.code == 0, run.err
    assert read_checkpoint(path)["global_step"] == 5
    assert checkpoint_in(Path.cwd()) == path


def test_the_autoregressive_configuration_is_trained_and_converted(llada: Command, story: Path, tmp_path: Path) -> None:
    first = ["--config", CONFIGS / "autoregressive.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    names = ("hidden_width=32", "convolution=0", "head_bias=true", "tie_embeddings=true")
    network = [f"--model.backbone.{name}" for name in names]
    assert llada("fit", *first, *network).code == 0
    start = checkpoint_in(tmp_path)
    weights = read_checkpoint(start)["state_dict"]
    assert read_checkpoint(start)["global_step"] == 3
    small = [*text(story), *SMALL, *QUIET, *SHORT, *network, "--model.optimizer.lr=0"]
    recipes = {
        "diffullama": {"shift": True, "block_length": None, "causal": False},
        "a2d": {"shift": False, "block_length": None, "causal": False},
        "llada2": {"shift": False, "block_length": 1, "causal": False},
        "fast_dllm_v2": {"shift": True, "block_length": 32, "causal": False},
        "i_dlm": {"shift": True, "block_length": 4, "causal": True},
    }
    assert {path.stem for path in (CONFIGS / "conversion").glob("*.yaml")} == set(recipes)
    for name, backbone in recipes.items():
        files = ["--config", CONFIGS / "pretrain_llada.yaml", "--config", CONFIGS / f"conversion/{name}.yaml"]
        run = llada("fit", *files, *small, "--init_from", start)
        assert run.code == 0, run.err
        path = tmp_path / "runs/pretrain_llada/model.ckpt"
        model = DiffusionLM.load_from_checkpoint(path)
        assert {key: getattr(model.backbone, key) for key in backbone} == backbone
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
        path.unlink()


def test_fine_tuning_begins_with_the_weights_of_a_checkpoint(llada: Command, story: Path, tmp_path: Path) -> None:
    pretraining = ["--config", CONFIGS / "pretrain_llada.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    assert llada("fit", *pretraining, "--model.backbone.hidden_width=32").code == 0
    pretrained = tmp_path / "runs/pretrain_llada/model.ckpt"
    folder = tmp_path / "runs/pretrain_llada/tokenizer"
    run = llada("tokenizer", "extract", "--checkpoint", pretrained, "--out", folder)
    assert (run.code, run.out) == (0, f"290 tokens, in {folder}\n")

    pairs = [{"prompt": f"where is boat {number}", "answer": "on the river"} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    options = ["--config", CONFIGS / "finetune.yaml", *SMALL, *QUIET, *SHORT, "--model.backbone.hidden_width=32"]
    still = ["--model.optimizer.lr=0", "--data.val_fraction=0.2", "--overwrite"]
    run = llada("fit", *options, *still)
    assert run.code == 0, run.err
    tuned = tmp_path / "runs/finetune/model.ckpt"
    assert read_checkpoint(tuned)["global_step"] == 3
    first, second = (read_checkpoint(path)["state_dict"] for path in (pretrained, tuned))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert DiffusionLM.load_from_checkpoint(tuned).objective == llada_finetuning()

    run = llada("fit", *options, *still, "--model.backbone.num_layers=2")
    assert run.code == 1
    assert "the weights of another model" in run.err
    assert "blocks.1" in run.err

    (tmp_path / "other.txt").write_text("\n\n".join(f"a house with {n} rooms" for n in range(90)), encoding="utf-8")
    source = ["--source=TextFiles", "--source.paths=other.txt"]
    assert llada("tokenizer", "train", *source, "--training.vocab_size=290", "--out=other").code == 0
    run = llada("fit", *options, *still, "--data.tokenizer.path=other")
    assert run.code == 1
    assert "trained with another tokenizer" in run.err


def test_the_configuration_of_any_length_trains_and_writes(llada: Command, tmp_path: Path) -> None:
    pairs = [{"prompt": f"boat {number}", "answer": "on the sea" + " and back" * (number % 3)} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    options = ["--config", CONFIGS / "flexmdm.yaml", *SMALL, *QUIET, *SHORT, "--data.val_fraction=0.2"]
    run = llada("fit", *options, "--data.tokenizer.vocab_size=285")
    assert run.code == 0, run.err
    path = tmp_path / "runs/flexmdm/model.ckpt"
    model = DiffusionLM.load_from_checkpoint(path)
    assert model.objective == model.bound == InsertionNELBO()
    rows = llada(
        "sample", path, "--infill", "boat 1[MASK:3] and[MASK]", "--num_new_tokens=1",
        "--max_new_tokens=5", "--steps=3", "--jsonl",
    )  # fmt: skip
    assert rows.code == 0, rows.err
    (written,) = map(json.loads, rows.out.splitlines())
    assert written["text"].startswith("boat 1")
    assert written["generated"] <= 5
    assert 3 <= written["calls"] <= 4
    refused = llada("score", path, "--prompt", "boat", "--answer", " 1")
    assert refused.code == 1
    assert "an answer has no length beforehand under InsertionProcess" in refused.err


def test_a_strategy_in_yaml_splits_the_model(llada: Command, story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With FSDP2 on one rank: the backbone is built without storage, trains, and is resumed from its folder."""
    built = []
    reset = BidirectionalTransformer.reset_parameters
    monkeypatch.setattr(
        BidirectionalTransformer,
        "reset_parameters",
        lambda self: (built.append(self.head.weight.device.type), reset(self)),
    )
    files = [CONFIGS / "pretrain_llada.yaml", CONFIGS / "scaling/fsdp.yaml"]
    options = [f"--config={file}" for file in files] + [*text(story), *SMALL, *QUIET, *SHORT]
    options += ["--model.backbone.hidden_width=32", "--trainer.devices=1", "--trainer.precision=32-true"]
    options += ["--trainer.strategy.data_parallel_size=1"]
    try:
        run = llada("fit", *options)
        assert run.code == 0, run.err
        assert built[:2] == ["meta", "cpu"]
        assert set(built[2:]) <= {"meta"}  # what is only looked at has no storage
        folder = Path("runs/pretrain_llada/model.ckpt")
        assert folder.is_dir()
        run = llada("fit", *options, "--ckpt_path", folder, "--trainer.max_steps=4")
        assert run.code == 0, run.err
        consolidate(folder, "model.ckpt")
        assert read_checkpoint("model.ckpt")["global_step"] == 4
        run = llada(
            "fit", *options, "--init_from=model.ckpt", "--model.optimizer.lr=0", "--trainer.max_steps=2", "--overwrite"
        )
        assert run.code == 0, run.err
        consolidate(folder, "tuned.ckpt")
        first, second = (read_checkpoint(path)["state_dict"] for path in ("model.ckpt", "tuned.ckpt"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_the_overlays_for_more_cards_run_as_two_processes(story: Path, tmp_path: Path) -> None:
    """Each of them on two ranks, and the folder of FSDP2 is resumed under tensor parallelism."""
    gloo = {"ddp": [], "fsdp": ["2", "1"], "tensor_parallel": ["1", "2"]}
    commands = []
    for name, sizes in gloo.items():
        files = [CONFIGS / "pretrain_llada.yaml", CONFIGS / f"scaling/{name}.yaml"]
        options = [f"--config={file}" for file in files] + [*text(story), *SMALL, *QUIET, *SHORT]
        options += ["--model.backbone.hidden_width=32", "--model.backbone.num_kv_heads=2", "--trainer.devices=2"]
        options += ["--trainer.num_nodes=1", "--trainer.precision=32-true", f"--trainer.logger.name={name}"]
        for size, kind in zip(sizes, ("data", "tensor"), strict=False):
            options.append(f"--trainer.strategy.{kind}_parallel_size={size}")
        commands.append(["fit", *options, *(["--overwrite"] if commands else [])])
    commands[2] += ["--trainer.max_steps=4", "--ckpt_path=runs/pretrain_llada/model.ckpt"]
    commands[2] += ["--data.batch_size=8"]  # of both ranks together, as on two that see different rows
    (tmp_path / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    run_two_ranks("run_commands.py", tmp_path / "commands.json", cwd=tmp_path)
    consolidate(tmp_path / "runs/pretrain_llada/model.ckpt", tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == 4
    assert {path.name for path in (tmp_path / "runs/pretrain_llada").iterdir()} >= set(gloo)


DISTILLATIONS: dict[str, type[Objective]] = {
    "through_time": SelfDistillation,
    "consistency": ConsistencyDistillation,
    "trajectory": TrajectoryDistillation,
    "certainty": CertaintyForcing,
}


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_an_overlay_of_distillation_names_parts_that_are_there(name: str) -> None:
    settings = yaml.safe_load((CONFIGS / f"distillation/{name}.yaml").read_text(encoding="utf-8"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    parser.add_argument("--callbacks", type=list[Callback])
    trainer = settings.get("trainer", {})
    callbacks = trainer.get("callbacks+", trainer.get("callbacks", []))
    found = parser.parse_object({"objective": settings["model"]["objective"], "callbacks": callbacks})
    built = parser.instantiate(found)
    assert type(built.objective) is DISTILLATIONS[name]
    assert len(built.callbacks) == len(callbacks)


def test_the_overlay_of_consistency_trains(llada: Command, story: Path) -> None:
    files = ["--config", CONFIGS / "duo.yaml", "--config", CONFIGS / "distillation/consistency.yaml"]
    run = llada("fit", *files, *text(story), *SMALL, *QUIET, *SHORT, "--trainer.limit_val_batches=0")
    assert run.code == 0, run.err
    assert read_checkpoint(Path("runs/distilled/model.ckpt"))["global_step"] == 3
