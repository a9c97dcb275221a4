"""SDAR and LLaDA2 folders from the command line: answers come block by block, by the families' own rule."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llada import DiffusionLM
from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter
from llada.cli import main
from llada.data import Message
from llada.process import MaskingProcess
from llada.samplers import ExactCache, NoCache, canvas, llada2
from llada.text import load
from tests.tiny_checkpoint import EOS, MASK, VOCAB_SIZE, write_tokenizer

MIXTURE: dict[str, Any] = {
    "num_experts": 4,
    "experts_per_token": 2,
    "router": GroupedRouter(2, 1, 1.0),
    "shared_width": 16,
    "dense_layers": 1,
    "dense_width": 24,
    "rotary_dim": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "sdar": {"block_length": 4, "qk_norm": True, "norm_eps": 1e-6},
    "llada2": {"block_length": 32, "qk_norm": True, "hidden_width": 16, **MIXTURE},
}

MESSAGES = [{"role": "user", "content": "The boat was"}]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_come_in_the_models_own_blocks(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB_SIZE, 16, 2, 2, **FAMILIES[family])
    folder = tmp_path / "model"
    DiffusionLM(backbone, MaskingProcess(MASK)).save_pretrained(folder, layout=family)
    write_tokenizer(folder)
    text = load(str(folder), None, "cpu")
    blocks = FAMILIES[family]["block_length"]
    assert text.model.sampler == replace(llada2(None, block_length=blocks), cache=ExactCache())

    (tmp_path / "questions.jsonl").write_text(json.dumps({"messages": MESSAGES}), encoding="utf-8")
    options = [str(tmp_path / "questions.jsonl"), str(tmp_path / "answers.jsonl"), "--num_new_tokens", "10"]
    assert main(["generate", str(folder), *options]) == 0, capsys.readouterr().err
    answer = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8"))
    prompt = text.chat_template.prompt([Message(**message) for message in MESSAGES], text.tokenizer)
    made = canvas([prompt], 10, mask_token_id=MASK, pad_token_id=EOS)
    plain = replace(llada2(None, block_length=blocks, stop_token_ids=EOS), cache=NoCache())
    ids = text.model.generate(*made, sampler=plain).tokens[0, len(prompt) :].tolist()
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    assert answer["text"].strip() == text.tokenizer.decode(ids).strip()
