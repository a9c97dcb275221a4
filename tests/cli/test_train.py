"""``llada fit | validate | test | predict``."""

import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from torch import nn

from llada.module import DiffusionLM
from llada.training.callbacks import ProgressLines
from llada.training.compiling import blocks_of
from llada.training.parallel import place
from tests.cli.conftest import QUIET, SHORT, SMALL, Command, Trained, text


def test_test_and_its_absence(llada: Command, trained: Trained) -> None:
    run = llada("test", "--config", trained.config, "--ckpt_path", trained.checkpoint)
    assert run.code == 0
    assert "test/perplexity" in run.out
    run = llada("test", "--config", trained.config, "--data.test_fraction=0")
    assert run.code == 1
    assert "there is no test data; set test_fraction above 0 or give test_source" in run.err


def test_parts_have_short_names(llada: Command, story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--data=TextDataModule", *text(story)[:3], "--data.tokenizer=SentencePieceTraining", *text(story)[3:]]
    parts = ["--model.backbone=BidirectionalTransformer", *SMALL, "--model.objective=NELBO"]
    parts += ["--model.objective.design=ExactCounts"]
    parts += ["--model.process.schedule=CosineSchedule", "--model.sampler=UnmaskingSampler"]
    parts += ["--model.sampler.amount=Quota", "--model.lr_scheduler=WarmupCosine"]
    parts += ["--model.lr_scheduler.warmup_steps=1", "--model.lr_scheduler.total_steps=2"]
    monkeypatch.setattr(ProgressLines.__init__, "__defaults__", (1e-9,))
    run = llada("fit", *options, *parts, QUIET[0], *SHORT)
    assert run.code == 0, run.err
    # The standard output isn't a terminal here, so that lines stand in the place of the bar.
    assert "step 1 of 3" in run.err
    assert "validation, batch 1 of 1" in run.err
    assert re.search(r"^step 2 of 3, val/nll \d\.\d{3}, val/bits_per_byte \d\.\d{3}$", run.err, re.MULTILINE), run.err
    assert "Epoch" not in run.out + run.err  # of the bar


def test_a_bar_that_somebody_asks_for_stays(llada: Command, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(DiffusionLM, "on_fit_start", lambda self: seen.extend(self.trainer.callbacks))
    options = ["fit", "--config", trained.config, "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=true"]
    assert llada(*options).code == 0
    assert [type(c) for c in seen if isinstance(c, ProgressBar | ProgressLines)] == [ProgressLines]
    seen.clear()
    assert llada(*options, "--trainer.callbacks+=TQDMProgressBar").code == 0
    assert [type(c) for c in seen if isinstance(c, ProgressBar | ProgressLines)] == [TQDMProgressBar, ProgressLines]


@pytest.mark.parametrize(("every", "told"), [(50, False), (61, True)])
def test_a_short_epoch_is_told_where_nothing_would_be_logged(
    llada: Command, trained: Trained, tmp_path: Path, every: int, told: bool
) -> None:
    """The interval counts steps over all epochs, of which this run has four of 16 steps."""
    options = ["--trainer.max_epochs=-1", "--trainer.max_steps=60", f"--trainer.log_every_n_steps={every}"]
    options += [f"--run_folder={tmp_path}", "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}"]
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        run = llada("fit", "--config", trained.config, *options)
    assert run.code == 0, run.err
    assert any("than the logging interval" in str(each.message) for each in noticed) is told
    assert any("train/loss" in path.read_text() for path in tmp_path.rglob("metrics.csv")) is not told


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_ctrl_c_before_the_first_step_is_one_sentence(
    llada: Command, trained: Trained, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(self: DiffusionLM, stage: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DiffusionLM, "setup", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        run = llada(command, "--config", trained.config, "--overwrite")
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores the signal from then on
    assert (run.code, run.out, run.err) == (130, "", f"llada {command}: interrupted\n")


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--trainer.max_step=3", 2, "--trainer.max_step"),
        ("--model.sead=3", 2, "--model.sead"),
        ("--model.objective=llada.objectives.MaskdNELBO", 2, "MaskdNELBO"),
        ("--model.objective=llada.noise.LinearSchedule", 2, "LinearSchedule"),
        ("--data.max_length=word", 2, "max_length"),
        ("--data.batch_size=0", 1, "llada fit: batch_size must be 1 or more; got 0 (read: "),
        ("--model.backbone.num_heads=3", 1, "width=32 isn't divisible by num_heads=3"),
        ("--data.source.paths=nowhere.txt", 1, "there is no file nowhere.txt"),
        ("--data.max_length=100000", 1, "rows of up to 100000 tokens, but the backbone takes 48; set --model.backbone"),
        ("--config=nowhere.yaml", 2, "nowhere.yaml"),
        ("--ckpt_path=nowhere.ckpt", 1, "nowhere.ckpt"),
        ("--init_from=nowhere.ckpt", 1, "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_what_is_wrong_is_named(llada: Command, trained: Trained, option: str, code: int, message: str) -> None:
    run = llada("fit", "--config", trained.config, "--trainer.max_steps=1", "--overwrite", option)
    assert run.code == code
    assert message in run.err


@pytest.mark.parametrize("option", [["--config", "c.yaml"], ["--config=c.yaml"], ["-c", "c.yaml"]], ids=str)
def test_a_broken_configuration_is_named(llada: Command, tmp_path: Path, option: list[str]) -> None:
    for content, message in ((b"model: {a: [1\n", ": line 2: this is no YAML"), (b"a: \xa7", " is not UTF-8 text")):
        (tmp_path / "c.yaml").write_bytes(content)
        run = llada("fit", *option)
        assert run.code == 2
        assert run.err.startswith(f"llada fit: c.yaml{message}")
        assert len(run.err.splitlines()) == 1


def test_an_empty_text_is_refused_and_leaves_nothing(llada: Command, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    run = llada("fit", "--config", trained.config, "--overwrite", "--data.source.paths=empty.txt")
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
    anew = ["--trainer.callbacks.dirpath=here", "--overwrite"]
    assert llada("fit", *options, *anew, "--trainer.max_steps=1").code == 0
    (written,) = tmp_path.rglob("x/config.yaml")
    first = written.read_text()
    assert "BidirectionalTransformer" in first
    assert llada("validate", *options, "--ckpt_path", trained.checkpoint, "--model.seed=5").code == 0
    assert written.read_text() == first
    assert llada("fit", *options, *anew, "--trainer.max_steps=2", "--trainer.logger=false").code == 0
    assert (tmp_path / "config.yaml").read_text() == "mine"
    rerun = llada("fit", "--config", written, "--trainer.max_steps=1")
    assert rerun.code == 0, rerun.err


def test_blocks_are_compiled_before_they_are_split(
    llada: Command, trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a word of the configuration or an option; the model's weights are made, and split, behind it."""
    compiled: list[list[bool]] = []

    def noted(backbone: nn.Module, *arguments: Any) -> None:
        compiled.append([block._compiled_call_impl is not None for block in blocks_of(backbone)])
        place(backbone, *arguments)

    monkeypatch.setattr("llada.module.place", noted)
    monkeypatch.setattr(DiffusionLM, "configure_model", lambda self: None)  # so that it is asked for on one device, too
    chosen = tmp_path / "compile.yaml"
    chosen.write_text("compile: blocks\n")
    options = ["--trainer.max_steps=0", "--trainer.enable_checkpointing=false", "--trainer.callbacks=null"]
    for asked in (["--config", str(chosen)], ["--compile", "blocks"], []):
        run = llada("fit", "--config", trained.config, *asked, *options)
        assert run.code == 0, run.err
    assert compiled == [[True, True], [True, True], [False, False]]
    run = llada("fit", "--config", trained.config, "--compile", "everything", *options)
    assert run.code == 2
    assert "blocks" in run.err
