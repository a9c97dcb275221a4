"""The examples around released checkpoints, on a small one."""

import importlib.util
from pathlib import Path

import pytest

from tests.tiny_checkpoint import write_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chat_with_checkpoint(checkpoint, capsys):
    options = ["--length", "8", "--steps", "4", "--device", "cpu"]
    messages = load("chat_with_checkpoint").main([checkpoint, "Where is the boat?", "And the boy?", *options])
    assert [message.role for message in messages] == ["user", "assistant"] * 2
    out = capsys.readouterr().out
    assert "░" in out.splitlines()[0]
    assert repr(messages[1].content) in out
    assert "░" not in messages[1].content


def test_batch_generation(checkpoint):
    prompts = ["The little boy went down", "The boat", "His"]
    options = ["--length", "8", "--device", "cpu"]
    together = load("batch_generation").main([checkpoint, *prompts, *options])
    alone = load("batch_generation").main([checkpoint, *prompts, *options, "--batch_size", "1"])
    assert together == alone
    assert len(together) == 3


def test_infill_document(checkpoint):
    document = "The boat[MASK:4] river[MASK] wide."
    texts = load("infill_document").main([checkpoint, document, "--samples", "2", "--device", "cpu"])
    assert len(texts) == 2
    for text in texts:
        assert text.startswith("The boat")
        assert " river" in text
        assert text.endswith(" wide.")
        assert "[MASK" not in text


def test_score_answers(checkpoint, capsys):
    best = load("score_answers").main([checkpoint, "The boat was", " red", " on the river.", "--draws", "64"])
    lines = capsys.readouterr().out.splitlines()
    values = [float(line.split()[0]) for line in lines]
    assert best == max(range(2), key=values.__getitem__)
    assert all(value < 0 for value in values)
