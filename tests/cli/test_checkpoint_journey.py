"""A released checkpoint, made small, through everything that a practitioner does with it at the command line."""

import io
import json

import pytest
import torch
import yaml

from llada import DiffusionLM
from llada.cli import main
from llada.data import llada_template
from llada.data.chat.conversations import Message
from llada.metrics import ConditionalLikelihood
from llada.text import load
from tests.tiny_checkpoint import write_checkpoint

SAMPLER = ["--num_new_tokens", "8", "--sampler", "low_confidence", "--sampler.steps", "4"]
PAIRS = [("Where is the boat?", "On the river."), ("Where is the boy?", "On the hill."), ("Who is red?", "The boat.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_chat(folder, tmp_path, monkeypatch, capsys):
    saved = tmp_path / "talk.jsonl"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Where is the boat?\nAnd the boy?\n/save {saved}\n/quit\n"))
    assert main(["chat", str(folder), *SAMPLER]) == 0
    assert "4 messages added" in capsys.readouterr().out
    messages = [Message(**message) for message in json.loads(saved.read_text())["messages"]]
    assert [message.role for message in messages] == ["user", "assistant"] * 2
    # The same answer by the library.
    text = load(str(folder), device="cpu")
    model, tokenizer = text.model, text.tokenizer
    prompt = llada_template().prompt(messages[:1], tokenizer)
    assert messages[1].content == _answer(model, tokenizer, prompt)


def _answer(model, tokenizer, prompt):
    from llada.samplers import canvas, low_confidence

    made = canvas([prompt], 8, mask_token_id=tokenizer.mask_token_id, pad_token_id=tokenizer.pad_token_id)
    ids = model.generate(*made, sampler=low_confidence(steps=4)).tokens[0, len(prompt) :].tolist()
    ends = [i for i, token in enumerate(ids) if token in (tokenizer.eos_token_id, tokenizer.eot_token_id)]
    return tokenizer.decode(ids[: ends[0] if ends else None])


def test_generate(folder, tmp_path):
    rows = [{"messages": [{"role": "user", "content": question}]} for question, _ in PAIRS]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out.jsonl"
    assert main(["generate", str(folder), str(tmp_path / "in.jsonl"), str(out), *SAMPLER]) == 0
    answers = {entry["id"]: entry["text"] for entry in map(json.loads, out.read_text().splitlines())}
    text = load(str(folder), device="cpu")
    model, tokenizer = text.model, text.tokenizer
    for index, (question, _) in enumerate(PAIRS):
        prompt = llada_template().prompt([Message("user", question)], tokenizer)
        assert answers[index] == _answer(model, tokenizer, prompt)


def test_score(folder, capsys):
    arguments = ["--prompt", "Where is the boat?", "--answer", " On the river.", "--answer", " The", "--jsonl"]
    assert main(["score", "--checkpoint", str(folder), *arguments]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    text = load(str(folder), device="cpu")
    model, tokenizer = text.model, text.tokenizer
    prompt = tokenizer.encode("Where is the boat?")  # no BOS: the checkpoint's tokenizer says "add_bos_token": false
    answers = [tokenizer.encode(" On the river."), tokenizer.encode(" The")]
    expected = ConditionalLikelihood()(model.backbone, model.process, [prompt] * 2, answers, seed=torch.zeros(2).long())
    assert [entry["log_likelihood"] for entry in entries] == pytest.approx(expected.log_likelihood.tolist(), rel=1e-5)
    assert sum(entry["best"] for entry in entries) == 1


def test_one_step_of_fine_tuning(folder, tmp_path, monkeypatch):
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({"prompt": q, "answer": a}) for q, a in PAIRS * 4))
    assert main(["convert", str(folder), str(tmp_path / "start.ckpt")]) == 0
    data = {
        "class_path": "llada.data.InstructionDataModule",
        "init_args": {
            "source": {
                "class_path": "llada.data.PromptAnswers",
                "init_args": {
                    "records": {
                        "class_path": "llada.data.JsonLines",
                        "init_args": {"paths": str(tmp_path / "pairs.jsonl")},
                    }
                },
            },
            "tokenizer": {
                "class_path": "llada.data.tokenizers.json_tokenizer.JsonTokenizer",
                "init_args": {"path": str(folder)},
            },
            "template": {
                "class_path": "llada.data.chat.jinja_template.checkpoint_template",
                "init_args": {"folder": str(folder)},
            },
            "max_length": 128,
            "batch_size": 4,
            "val_fraction": 0.0,
            "cache_folder": str(tmp_path / "cache"),
        },
    }
    trainer = {
        "max_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "default_root_dir": str(tmp_path),
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": str(tmp_path / "run"), "save_last": True},
            }
        ],
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data, "trainer": trainer}))
    assert main(["fit", "--config", str(tmp_path / "start.json"), "--config", str(tmp_path / "data.yaml")]) == 0

    assert main(["convert", str(tmp_path / "run" / "last.ckpt"), str(tmp_path / "tuned")]) == 0
    before = DiffusionLM.load_from_checkpoint(tmp_path / "start.ckpt").state_dict()
    after = load(str(tmp_path / "tuned"), None, "cpu").model.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert all(0.0 < distance <= 1.2e-3 for distance in moved.values()), moved  # one step of AdamW at 1e-3
    monkeypatch.setattr("sys.stdin", io.StringIO("Where is the boat?\n"))
    assert main(["chat", str(tmp_path / "tuned"), *SAMPLER]) == 0
