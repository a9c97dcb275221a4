"""A mask token for a checkpoint without one: vocabulary, embedding and tokenizer agree, and the rest stays."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llada import DiffusionLM
from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.new_mask import with_new_mask
from llada.cli import main
from llada.process import MaskingProcess
from llada.text import load
from tests.tiny_checkpoint import SPECIAL, write_tokenizer

TOKENS = 340


def next_token_folder(folder: Path, rows: int) -> Path:
    """A LLaMA folder whose tokenizer has `TOKENS` tokens and no mask, and whose embedding has so many rows."""
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(rows, 16, 1, 2, shift=True, tie_embeddings=True, norm_eps=1e-6)
    DiffusionLM(backbone, MaskingProcess(0)).save_pretrained(folder, layout="llama")
    write_tokenizer(folder)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8").replace(SPECIAL[2], "<|spare|>")
    content = json.loads(text)
    known = len(content["model"]["vocab"])
    content["added_tokens"] += [
        {**content["added_tokens"][0], "id": index, "content": f"<|more_{index}|>"} for index in range(known, TOKENS)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    for name in ("mask_token_id", "right_shift_logits"):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("rows", [TOKENS, TOKENS + 6])
def test_convert_adds_the_mask_in_one_step(rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = next_token_folder(tmp_path / "source", rows), tmp_path / "out"
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert main(["convert", str(source), str(out), "--add_mask", "<|blank|>"]) == 0, capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    text = load(str(out), None, "cpu")
    assert text.model.process.mask_token_id == text.tokenizer.mask_token_id == TOKENS
    assert text.model.backbone.shift
    assert text.tokenizer.vocab_size == text.model.backbone.vocab_size == max(rows, TOKENS + 1)
    assert text.tokenizer.decode([TOKENS], show_mask="_") == "_"
    assert TOKENS not in text.tokenizer.encode("<|blank|> a boat")  # text can't forge it
    old, new = (load_file(folder / "model.safetensors")["model.embed_tokens.weight"] for folder in (source, out))
    assert torch.equal(new[:TOKENS], old[:TOKENS])
    torch.testing.assert_close(new[TOKENS], old.mean(0) if rows == TOKENS else old[TOKENS])
    assert json.loads((out / "tokenizer_config.json").read_text())["mask_token"] == "<|blank|>"
    assert main(["convert", str(source), str(tmp_path / "start.ckpt"), "--add_mask", "<|blank|>"]) == 0
    assert load(str(tmp_path / "start.ckpt"), None, "cpu").model.process.mask_token_id == TOKENS


def test_a_tokenizer_in_parts_gets_it_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 8}))
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": 2}))
    with with_new_mask(tmp_path) as (view, mask):
        assert mask == 3
        assert json.loads((view / "added_tokens.json").read_text()) == {"<|end|>": 2, "<|mask|>": 3}
        assert json.loads((view / "tokenizer_config.json").read_text())["mask_token"] == "<|mask|>"
        assert (view / "vocab.json").read_text() == (tmp_path / "vocab.json").read_text()
    assert not view.exists()


def test_what_has_a_mask_or_no_room_is_refused(tmp_path: Path) -> None:
    def refused(reason: str, token: str = "<|m|>", **config: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=reason), with_new_mask(tmp_path, token):
            pass

    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": 6}))
    refused("has a mask already, token 3", mask_token_id=3, vocab_size=8)
    refused("is token 6 of added_tokens.json already", "<|end|>", vocab_size=8)
    refused("has 7 tokens, and the embedding 6 rows", vocab_size=6)
    refused("no vocab_size")
