"""A command line that runs in this process, and a model trained with it once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from llada.cli import main

TINY = """
data:
  class_path: llada.data.TextDataModule
  init_args:
    source: {class_path: llada.data.TextFiles, init_args: {paths: STORY, split_on_blank_lines: true}}
    tokenizer: {class_path: llada.data.SentencePieceTraining, init_args: {vocab_size: 290}}
    max_length: 16
    batch_size: 16
    val_fraction: 0.2
    test_fraction: 0.1
    cache_folder: cache
model:
  backbone:
    class_path: llada.backbones.BidirectionalTransformer
    init_args: {width: 32, num_layers: 2, num_heads: 2, max_length: 48, convolution: 5}
  process:
    class_path: llada.process.MaskingProcess
    init_args: {schedule: llada.noise.LinearSchedule}
  objective: {class_path: llada.objectives.masked_mean}
  sampler: {class_path: llada.samplers.low_confidence, init_args: {steps: 16}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-2}}
  lr_scheduler: {class_path: llada.training.lr_schedulers.WarmupCosine, init_args: {warmup_steps: 20, total_steps: 192}}
trainer:
  accelerator: cpu
  max_epochs: 12
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  check_val_every_n_epoch: 12
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: FOLDER, filename: model, enable_version_counter: false}
"""


CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
SMALL = ["--model.backbone.width=16", "--model.backbone.num_layers=1", "--model.backbone.num_heads=2"]
SHORT = ["--trainer.max_steps=3", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
"""The last step is none after which a validation saves."""


def checkpoint_in(folder: Path) -> Path:
    (path,) = folder.rglob("*.ckpt")
    return path


def text(story: Path) -> list[object]:
    """Options of the data."""
    return [
        "--data.source=TextFiles",
        f"--data.source.paths={story}",
        "--data.source.split_on_blank_lines=true",
        "--data.tokenizer.vocab_size=290",
        "--data.max_length=16",
        "--data.batch_size=4",
        "--data.val_fraction=0.2",
    ]


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


class Trained(NamedTuple):
    """What ``llada fit`` left behind."""

    folder: Path
    config: Path
    checkpoint: Path
    story: Path


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit status of ``llada ARGUMENTS``; argparse ends with SystemExit, as it would the process."""
    given = [str(argument) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["llada", *given])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def llada(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = run_here(monkeypatch, *arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of one sentence, so regular that a tiny model learns it in seconds."""
    path = tmp_path_factory.mktemp("story") / "story.txt"
    path.write_text("\n\n".join(f"boat {number} is on the river" for number in range(300)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Trained:
    """A model that knows the story: the first of the tests' processes trains it, all of them read it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    made = Trained(folder, folder / "tiny.yaml", folder / "model.ckpt", folder / story.name)
    with FileLock(folder.with_suffix(".lock")), pytest.MonkeyPatch.context() as monkeypatch:
        if not folder.exists():
            folder.mkdir()
            shutil.copy(story, folder)
            settings = TINY.replace("STORY", str(made.story)).replace("FOLDER", str(folder))
            made.config.write_text(settings, encoding="utf-8")
            monkeypatch.chdir(folder)
            assert run_here(monkeypatch, "fit", "--config", made.config) == 0
    return made
