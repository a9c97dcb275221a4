"""``llada fit | validate | test | predict``, with every YAML file that is shipped."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.consolidate import consolidate
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.objectives import RandomLength, llada_finetuning, llada_pretraining
from tests.cli.conftest import Command, Trained
from tests.ranks import run_two_ranks

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
SMALL = ["--model.backbone.width=16", "--model.backbone.num_layers=1", "--model.backbone.num_heads=2"]
SHORT = ["--trainer.max_steps=3", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
"""The last step is none after which a validation saves."""


def text(story: Path) -> list[object]:
    return [
        "--data.source=TextFiles",
        f"--data.source.paths={story}",
        "--data.source.split_on_blank_lines=true",
        "--data.tokenizer.vocab_size=290",
        "--data.max_length=16",
        "--data.batch_size=4",
        "--data.val_fraction=0.2",
    ]


def checkpoint_in(folder: Path) -> Path:
    (path,) = folder.rglob("*.ckpt")
    return path


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
    assert following == f"next: llada sample {shown}"
    assert DiffusionLM.load_from_checkpoint(path).backbone.width == 16

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


def test_the_autoregressive_configuration_keeps_its_last_step(llada: Command, story: Path) -> None:
    options = ["--config", CONFIGS / "autoregressive.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    run = llada("fit", *options, "--model.backbone.hidden_width=32")
    assert run.code == 0, run.err
    assert read_checkpoint(checkpoint_in(Path.cwd()))["global_step"] == 3


def test_a_next_token_model_is_converted(llada: Command, story: Path, tmp_path: Path) -> None:
    first = ["--config", CONFIGS / "autoregressive.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    names = ("hidden_width=32", "convolution=0", "head_bias=true", "tie_embeddings=true")
    network = [f"--model.backbone.{name}" for name in names]
    assert llada("fit", *first, *network).code == 0
    start = checkpoint_in(tmp_path)
    weights = read_checkpoint(start)["state_dict"]
    small = [*text(story), *SMALL, *QUIET, *SHORT, *network, "--model.optimizer.lr=0"]
    for name, backbone in (("diffullama", {"shift": True, "block_length": None}), ("llada2", {"block_length": 1})):
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
    still = ["--model.optimizer.lr=0", "--data.val_fraction=0.2"]
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


def test_the_paper_configuration_is_the_papers(llada: Command, story: Path) -> None:
    options = ["--config", CONFIGS / "pretrain_llada.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    assert llada("fit", *options).code == 0
    model = DiffusionLM.load_from_checkpoint(checkpoint_in(Path.cwd()))
    assert model.objective == RandomLength(llada_pretraining(1e-3), 0.01)
    assert (model.process.schedule, model.process.time_conditioned) == (LinearSchedule(), False)
    assert model.process.predicts_mask
    assert model.optimizer.keywords["weight_decay"] == 0.1


def test_test_and_its_absence(llada: Command, trained: Trained) -> None:
    run = llada("test", "--config", trained.config, "--ckpt_path", trained.checkpoint)
    assert run.code == 0
    assert "test/perplexity" in run.out
    run = llada("test", "--config", trained.config, "--data.test_fraction=0")
    assert run.code == 1
    assert "there is no test data; set test_fraction above 0 or give test_source" in run.err


def test_parts_have_short_names(llada: Command, story: Path) -> None:
    options = ["--data=TextDataModule", *text(story)[:3], "--data.tokenizer=SentencePieceTraining", *text(story)[3:]]
    parts = ["--model.backbone=BidirectionalTransformer", *SMALL, "--model.objective=NELBO"]
    parts += ["--model.objective.design=ExactCounts"]
    parts += ["--model.process.schedule=CosineSchedule", "--model.sampler=UnmaskingSampler"]
    parts += ["--model.sampler.amount=Quota", "--model.lr_scheduler=WarmupCosine"]
    parts += ["--model.lr_scheduler.warmup_steps=1", "--model.lr_scheduler.total_steps=2"]
    run = llada("fit", *options, *parts, *QUIET, *SHORT)
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--trainer.max_step=3", 2, "--trainer.max_step"),
        ("--model.sead=3", 2, "--model.sead"),
        ("--model.objective=llada.objectives.MaskdNELBO", 2, "MaskdNELBO"),
        ("--model.objective=llada.noise.LinearSchedule", 2, "LinearSchedule"),
        ("--data.max_length=word", 2, "max_length"),
        ("--data.batch_size=0", 1, "llada fit: batch_size must be 1 or more; got 0\n"),
        ("--model.backbone.num_heads=3", 1, "width=32 isn't divisible by num_heads=3"),
        ("--data.source.paths=nowhere.txt", 1, "there is no file nowhere.txt"),
        ("--data.max_length=100000", 1, "rows of up to 100000 tokens, but the backbone takes 48; set --model.backbone"),
        ("--config=nowhere.yaml", 2, "nowhere.yaml"),
        ("--ckpt_path=nowhere.ckpt", 1, "nowhere.ckpt"),
        ("--init_from=nowhere.ckpt", 1, "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_what_is_wrong_is_named(llada: Command, trained: Trained, option: str, code: int, message: str) -> None:
    run = llada("fit", "--config", trained.config, "--trainer.max_steps=1", option)
    assert run.code == code
    assert message in run.err


def test_an_empty_text_is_refused_and_leaves_nothing(llada: Command, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    run = llada("fit", "--config", trained.config, "--data.source.paths=empty.txt")
    assert run.code == 1
    assert run.err.endswith("empty.txt is empty\n")
    assert not list(tmp_path.rglob("*.tokens"))


def test_damaged_and_foreign_checkpoints_are_refused(llada: Command, trained: Trained, tmp_path: Path) -> None:
    whole = trained.checkpoint.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name, message in (("half", "damaged or truncated"), ("foreign", "is not a checkpoint of this library")):
        for command in ("fit", "validate"):
            run = llada(command, "--config", trained.config, f"--ckpt_path={name}.ckpt")
            assert run.code == 1
            assert message in run.err
    assert trained.checkpoint.read_bytes() == whole


def test_a_checkpoint_with_another_tokenizer_or_size_is_refused(llada: Command, trained: Trained) -> None:
    run = llada("validate", "--config", trained.config, "--ckpt_path", trained.checkpoint, "--data.val_fraction=0.3")
    assert run.code == 1  # another share for training trains another tokenizer
    assert "with another tokenizer" in run.err
    run = llada("validate", "--config", trained.config, "--ckpt_path", trained.checkpoint, "--model.backbone.width=16")
    assert run.code == 1
    assert "the weights of another model" in run.err
    assert "of another shape" in run.err


def test_only_training_writes_its_configuration(llada: Command, trained: Trained, tmp_path: Path) -> None:
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    options = ["--config", trained.config, logger, "--trainer.logger.save_dir=.", "--trainer.logger.version=x"]
    (tmp_path / "config.yaml").write_text("mine")
    assert llada("fit", *options, "--trainer.max_steps=1").code == 0
    (written,) = tmp_path.rglob("x/config.yaml")
    first = written.read_text()
    assert "BidirectionalTransformer" in first
    assert llada("validate", *options, "--ckpt_path", trained.checkpoint, "--model.seed=5").code == 0
    assert written.read_text() == first
    assert llada("fit", *options, "--trainer.max_steps=2", "--trainer.logger=false").code == 0
    assert (tmp_path / "config.yaml").read_text() == "mine"
    rerun = llada("fit", "--config", written, "--trainer.max_steps=1")
    assert rerun.code == 0, rerun.err


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
        run = llada("fit", *options, "--init_from=model.ckpt", "--model.optimizer.lr=0", "--trainer.max_steps=2")
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
        commands.append(["fit", *options])
    commands[2] += ["--trainer.max_steps=4", "--ckpt_path=runs/pretrain_llada/model.ckpt"]
    commands[2] += ["--data.batch_size=8"]  # of both ranks together, as on two that see different rows
    (tmp_path / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    run_two_ranks("run_commands.py", tmp_path / "commands.json", cwd=tmp_path)
    consolidate(tmp_path / "runs/pretrain_llada/model.ckpt", tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == 4
    assert {path.name for path in (tmp_path / "runs/pretrain_llada").iterdir()} >= set(gloo)
