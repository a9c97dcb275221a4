"""A tiny diffusion model, its twin, and their tokenizer; random weights, so every number is as good as another."""

from pathlib import Path

import pytest
import torch

from llada.autoregressive import AutoregressiveLM
from llada.backbones import BidirectionalTransformer
from llada.data import Tokenizer, load_tokenizer
from llada.evaluation import EvaluationModel
from llada.metrics import ConditionalLikelihood
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import low_confidence
from llada.text import TextModel
from tests.tiny_checkpoint import MASK, write_tokenizer

ESTIMATOR = ConditionalLikelihood(num_samples=16, batch_size=8)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pytest.importorskip("tokenizers")
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), mask=MASK)


@pytest.fixture(scope="session")
def diffusion(tokenizer: Tokenizer) -> EvaluationModel:
    torch.manual_seed(0)
    model = DiffusionLM(
        BidirectionalTransformer(tokenizer.vocab_size, 32, 1, 2, max_length=40), MaskingProcess(MASK)
    ).eval()
    return EvaluationModel(
        TextModel(model, tokenizer, sampler=low_confidence(12), bos=True), ESTIMATOR, check_greedy=True
    )


@pytest.fixture(scope="session")
def twin(tokenizer: Tokenizer) -> EvaluationModel:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(tokenizer.vocab_size, 32, 1, 2, max_length=40, causal=True, shift=True)
    text = TextModel(AutoregressiveLM(backbone, MaskingProcess(MASK)).eval(), tokenizer, bos=True)
    return EvaluationModel(text, check_greedy=True)


@pytest.fixture(params=["diffusion", "twin"])
def evaluated(request: pytest.FixtureRequest) -> EvaluationModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files of this folder, with the paths of their data filled in."""
    folder = tmp_path_factory.mktemp("tasks")
    here = Path(__file__).parent / "tasks"
    for path in here.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8").replace("TASKS", str(here)), encoding="utf-8")
    return folder
