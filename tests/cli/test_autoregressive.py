"""An autoregressive checkpoint at the command line: its likelihoods are exact, by every way to them."""

import json
import math
from pathlib import Path

import pytest
import torch

from llada.autoregressive import AutoregressiveLM
from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.cli import evaluate, score
from llada.data import Tokenizer, load_tokenizer
from llada.metrics import NextTokenLikelihood
from llada.process import MaskingProcess
from llada.text import TextModel, load
from tests.cli.conftest import Command
from tests.tiny_checkpoint import BOS, MASK, write_tokenizer

TASKS = Path(__file__).parents[1] / "evaluation" / "tasks"
TEXTS = ["The boat was red, and the river was wide.", "The boy ran up the hill."]
"""Those of the task ``boat_text``."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pytest.importorskip("tokenizers")
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), mask=MASK)


@pytest.fixture(scope="module")
def twin(words: Tokenizer) -> TextModel:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(words.vocab_size, 32, 1, 2, max_length=64, causal=True, shift=True)
    return TextModel(AutoregressiveLM(backbone, MaskingProcess(MASK)).eval(), words)


@pytest.fixture(params=["object", "checkpoint"])
def source(request: pytest.FixtureRequest, twin: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The twin in memory, in the place of a checkpoint, or its checkpoint."""
    path = tmp_path / "twin.ckpt"
    if request.param == "object":
        for module in (evaluate, score):
            monkeypatch.setattr(module, "load", lambda *_: twin)
        path.touch()  # is looked for
        return path
    parts = stored_parts(twin.model, twin.tokenizer)
    torch.save({"state_dict": twin.model.state_dict(), PARTS_KEY: parts, "epoch": 0, "global_step": 0}, path)
    return path


def exact(twin: TextModel, prompts: list[list[int]], texts: list[str]) -> list[float]:
    answers = [twin.tokenizer.encode(text) for text in texts]
    found: list[float] = NextTokenLikelihood()(
        twin.model.backbone, twin.model.process, prompts, answers
    ).log_likelihood.tolist()
    return found


def test_scores_are_exact(llada: Command, twin: TextModel, source: Path) -> None:
    answers = [" on the river, and the boat was wide", " up the hill"]
    options = [part for answer in answers for part in ("--answer", answer)]
    run = llada("score", source, "--prompt", "The boy ran", *options, "--jsonl")
    assert run.code == 0, run.err
    found = [json.loads(line) for line in run.out.splitlines()]
    wanted = exact(twin, [twin.encode("The boy ran")] * 2, answers)
    assert [entry["log_likelihood"] for entry in found] == pytest.approx(wanted, abs=1e-6)
    assert [entry["standard_error"] for entry in found] == [0.0, 0.0]


def test_evaluation_is_exact(llada: Command, twin: TextModel, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    text = (TASKS / "boat_text.yaml").read_text(encoding="utf-8").replace("TASKS", str(TASKS))
    (tmp_path / "boat_text.yaml").write_text(text, encoding="utf-8")
    options = ["--tasks", "boat_text", "--include_path", tmp_path, "--output", "scores.json", "--device", "cpu"]
    run = llada("evaluate", source, *options)
    assert run.code == 0, run.err
    nats = -sum(exact(twin, [[BOS]] * 2, TEXTS))
    size = sum(len(text.encode()) for text in TEXTS)
    scores = json.loads(Path("scores.json").read_text())["boat_text"]
    assert scores["bits_per_byte,none"] == pytest.approx(nats / size / math.log(2.0), abs=1e-6)


def test_a_checkpoint_is_loaded_as_what_it_was(words: Tokenizer, twin: TextModel, tmp_path: Path) -> None:
    path = tmp_path / "twin.ckpt"
    parts = stored_parts(twin.model, words)
    torch.save({"state_dict": twin.model.state_dict(), PARTS_KEY: parts, "epoch": 0, "global_step": 0}, path)
    assert isinstance(load(str(path)).model, AutoregressiveLM)
