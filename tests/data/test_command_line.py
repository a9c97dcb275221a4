"""What a YAML file may say about data."""

import logging

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from llada.data import ChatTemplate, InstructionDataModule, TextDataModule, load_tokenizer, plain_template


def build(settings):
    parser = LightningArgumentParser()
    parser.logger.setLevel(logging.CRITICAL)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parsed = parser.parse_object({"data": settings})
    written = parser.parse_string(parser.dump(parsed))  # what is stored beside a run builds the same
    return getattr(parser, "instantiate", parser.instantiate_classes)(written).data


@pytest.fixture
def text(tmp_path):
    (tmp_path / "story.txt").write_text("\n\n".join(f"boat {number} is on the river" for number in range(60)))
    return {
        "class_path": "llada.data.TextDataModule",
        "init_args": {
            "source": {
                "class_path": "llada.data.TextFiles",
                "init_args": {"paths": [str(tmp_path / "*.txt")], "split_on_blank_lines": True},
            },
            "tokenizer": {
                "class_path": "llada.data.SentencePieceTraining",
                "init_args": {"vocab_size": 290, "control_symbols": ["<|eot_id|>"]},
            },
            "max_length": 8,
            "batch_size": 2,
            "val_fraction": 0.2,
            "cache_folder": str(tmp_path / "cache"),
        },
    }


def test_text(text):
    data = build(text)
    assert isinstance(data, TextDataModule)
    assert data.vocab_size == 290
    data.prepare_data()
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["tokens"].shape == (2, 8)


@pytest.mark.parametrize("template", ["llada.data.plain_template", "llada.data.llada_template"])
def test_instructions(text, tmp_path, template):
    pretraining = build(text)
    pretraining.prepare_data()
    (tmp_path / "pairs.jsonl").write_text('{"q": "where is boat 1", "a": "on the river"}\n' * 3)
    records = {"class_path": "llada.data.JsonLines", "init_args": {"paths": str(tmp_path / "pairs.jsonl")}}
    data = build(
        {
            "class_path": "llada.data.InstructionDataModule",
            "init_args": {
                "source": {
                    "class_path": "llada.data.PromptAnswers",
                    "init_args": {"records": records, "prompt": "q", "answer": "a"},
                },
                "tokenizer": {
                    "class_path": "llada.data.SentencePieceTokenizer",
                    "init_args": {"path": str(pretraining.folder)},
                },
                "template": {"class_path": template},
                "padding": {"class_path": "llada.data.ExcludedPadding", "init_args": {"left": True}},
                "max_length": 64,
                "batch_size": 3,
                "val_fraction": 0.0,
                "cache_folder": str(tmp_path / "cache"),
            },
        }
    )
    assert isinstance(data, InstructionDataModule)
    assert isinstance(data.template, ChatTemplate)
    if template.endswith("llada_template"):
        with pytest.raises(ValueError, match=r"no special token '<\|start_header_id\|>'"):
            data.prepare_data()
        return
    assert data.template == plain_template()
    data.prepare_data()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["maskable"].sum(1).tolist() == [len(load_tokenizer(pretraining.folder).encode("on the river")) + 1] * 3
    assert bool(torch.all(batch["attention_mask"]))


def test_a_misspelt_option_is_named(text, capsys):
    text["init_args"]["row_lenght"] = text["init_args"].pop("max_length")
    with pytest.raises(SystemExit):
        build(text)
    assert "row_lenght" in capsys.readouterr().err
