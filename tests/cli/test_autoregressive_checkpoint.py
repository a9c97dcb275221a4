"""The commands give the exact numbers of an autoregressive model that was trained in Python and read from its file."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from llada import AutoregressiveLM, BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.data import Tokenizer, load_tokenizer
from llada.evaluation import EvaluationModel
from llada.objectives import NELBO, NextTokens
from llada.samplers import NextToken
from llada.text import load
from tests.cli.conftest import Command
from tests.tiny_checkpoint import MASK, STORY, write_tokenizer

TASKS = Path(__file__).parents[1] / "evaluation" / "tasks"
TEXTS = ["The boat was red, and the river was wide.", "The boy ran up the hill."]
"""What `boat_text.jsonl` holds."""


class Story(LightningDataModule):
    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def train_dataloader(self) -> DataLoader[Any]:
        row = torch.tensor(self.tokenizer.encode(STORY)[:32])
        return DataLoader([{"tokens": row.roll(-place)} for place in range(16)], batch_size=8)


@pytest.fixture(scope="module", params=["class", "parts"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionLM, Path]:
    """A twin by its class, and one by its parts, as `llada fit` makes it from YAML."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("twin")
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"), mask=MASK)
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(tokenizer.vocab_size, 32, 1, 2, max_length=96, causal=True, shift=True)
    parts = {"objective": NELBO(NextTokens()), "bound": NELBO(NextTokens()), "sampler": NextToken()}
    model = AutoregressiveLM(backbone, MaskingProcess(MASK))
    if request.param == "parts":
        model = DiffusionLM(backbone, MaskingProcess(MASK), **parts)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    run = Trainer(accelerator="cpu", max_steps=3, enable_checkpointing=False, default_root_dir=folder, **quiet)
    run.fit(model, Story(tokenizer))
    run.save_checkpoint(folder / "twin.ckpt")
    return model.eval(), folder / "twin.ckpt"


def next_token_value(model: DiffusionLM, prompt: list[int], answer: list[int]) -> float:
    """The log-likelihood of an answer, one token after the other from those before it, by one call each."""
    total, ids = 0.0, list(prompt)
    for token in answer:
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, MASK]]))[0, -1].double()
        logits[MASK] = -torch.inf if not model.process.predicts_mask else logits[MASK]
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


def test_scores_are_exact(llada: Command, checkpoint: tuple[DiffusionLM, Path]) -> None:
    model, path = checkpoint
    loaded = load(str(path), None, "cpu")
    assert type(loaded.model) is type(model)
    run = llada("score", path, "--prompt", "The boat", "--answer", " was red", "--jsonl", "--device", "cpu")
    assert run.code == 0, run.err
    prompt, answer = loaded.context(loaded.encode("The boat")), loaded.tokenizer.encode(" was red")
    expected = next_token_value(model, prompt, answer)
    found = json.loads(run.out)
    assert found["log_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert found["standard_error"] == 0.0


def test_evaluations_are_exact(llada: Command, checkpoint: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    pytest.importorskip("datasets")
    model, path = checkpoint
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for file in TASKS.glob("*.yaml"):
        (tasks / file.name).write_text(file.read_text(encoding="utf-8").replace("TASKS", str(TASKS)), encoding="utf-8")
    options = ["--tasks", "boat_text", "--include_path", tasks, "--output", "scores.json", "--device", "cpu"]
    run = llada("evaluate", path, *options)
    assert run.code == 0, run.err
    found = json.loads(Path("scores.json").read_text())["boat_text"]["bits_per_byte,none"]
    windows = [pair for text in TEXTS for pair in EvaluationModel(load(str(path), None, "cpu")).windows(text)]
    total = sum(next_token_value(model, *window) for window in windows)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found == pytest.approx(-total / size / math.log(2.0), rel=1e-5)
