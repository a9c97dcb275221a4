"""One owner of BOS, padding, stop tokens and the chat template: all commands write the same for the same prompt."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llada.autoregressive import AutoregressiveLM
from llada.backbones import BidirectionalTransformer
from llada.cli import chat, generate, main, sample, score
from llada.data import Message, Tokenizer, llada_template
from llada.evaluation import EvaluationModel, Question
from llada.metrics import NextTokenLikelihood
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.rows import count_before
from llada.samplers import low_confidence
from llada.text import TextModel
from tests.text.conftest import Lacking
from tests.tiny_checkpoint import BOS, EOS, EOT, MASK

PROMPTS = ["The boat was", "The river, and the little boy"]
LENGTH, SEED = 6, 5
LACKING = [
    tuple(name for name, lacks in zip(("pad", "bos", "eos"), chosen, strict=True) if lacks)
    for chosen in product((False, True), repeat=3)
]


@pytest.fixture(autouse=True)
def a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look for the checkpoint before they load it, which these tests replace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").touch()


def tiny(words: Tokenizer) -> TextModel:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(words.vocab_size, 32, 1, 2, max_length=64)
    model = DiffusionLM(backbone, MaskingProcess(MASK), sampler=low_confidence(LENGTH, temperature=1.0))
    return TextModel(model.eval(), words)


def by_sample(text: TextModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    options = ["--num_new_tokens", str(LENGTH), "--seed", str(SEED), "--jsonl"]
    assert main(["sample", "a.ckpt", *prompts, *options]) == 0, capsys.readouterr().err
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    return [whole.removeprefix(prompt) for whole, prompt in zip(texts, PROMPTS, strict=True)]


def by_generate(text: TextModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    (folder / "in.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    options = ["--num_new_tokens", str(LENGTH), "--seed", str(SEED)]
    assert main(["generate", "a.ckpt", str(folder / "in.jsonl"), str(folder / "out.jsonl"), *options]) == 0
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [row["text"] for row in sorted(rows, key=lambda row: row["id"])]


def by_evaluation(text: TextModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    questions = [Question(text.encode(prompt), (), LENGTH, row) for row, prompt in enumerate(PROMPTS)]
    return [answer for _, answer in sorted(EvaluationModel(text, seed=SEED).generate(questions))]


@pytest.mark.parametrize("lacks", LACKING, ids=lambda lacks: "-".join(lacks) or "whole")
@pytest.mark.parametrize("command", [by_sample, by_generate, by_evaluation])
def test_all_commands_write_the_same(
    words: Tokenizer,
    lacks: tuple[str, ...],
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tiny(Lacking(words, lacks))
    for module in (sample, generate):
        monkeypatch.setattr(module, "load", lambda *_: text)
    wanted = []
    for row, prompt in enumerate(PROMPTS):  # each alone, by hand
        ids = [*([] if "bos" in lacks else [BOS]), *words.encode(prompt)]
        filled = text.model.generate(torch.tensor([[*ids, *[MASK] * LENGTH]]), seed=SEED + row).tokens[0, len(ids) :]
        stops = {EOT} if "eos" in lacks else {EOS, EOT}
        wanted.append(words.decode(filled[: count_before(filled.tolist(), stops)].tolist()))
    assert command(text, tmp_path, capsys) == wanted
    assert len(set(wanted)) == 2
    assert all(wanted)


@pytest.mark.parametrize("lacks", LACKING, ids=lambda lacks: "-".join(lacks) or "whole")
def test_chatting_and_batches_of_conversations_answer_alike(
    words: Tokenizer,
    lacks: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tiny(Lacking(words, lacks))
    for module in (chat, generate):
        monkeypatch.setattr(module, "load", lambda *_: text)
    monkeypatch.setattr("sys.stdin", io.StringIO("Where?\n"))
    options = ["--num_new_tokens", str(LENGTH), "--seed", str(SEED)]
    assert main(["chat", "a.ckpt", *options]) == 0
    said = capsys.readouterr().out
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "Where?"}]}')
    assert main(["generate", "a.ckpt", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *options]) == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert said == row["text"] + "\n"
    assert row["text"]


def test_padding_is_never_the_mask(words: Tokenizer) -> None:
    for mask, pad in ((0, 1), (1, 0)):
        text = TextModel(DiffusionLM(torch.nn.Identity(), MaskingProcess(mask)), Lacking(words, ["pad"]))
        assert text.canvas([[7, 8], [9]], 1).tokens.tolist() == [[7, 8, mask], [pad, 9, mask]]
    assert tiny(words).canvas([[7, 8], [9]], 1).tokens.tolist() == [[7, 8, MASK], [EOS, 9, MASK]]


def test_a_backbone_that_knows_of_no_attention_mask_can_be_used(words: Tokenizer) -> None:
    class Plain(torch.nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(tokens.clamp(min=7), words.vocab_size).float()

    text = TextModel(DiffusionLM(Plain(), MaskingProcess(MASK)), words)
    assert text.generate(text.canvas([[8, 9], [9, 8]], 2), 0).tokens[:, 2:].tolist() == [[7, 7], [7, 7]]
    with pytest.raises(ValueError, match="Plain doesn't take 'attention_mask', which this batch needs: it has padding"):
        text.generate(text.canvas([[8, 9], [9]], 2), 0)


def test_where_an_answer_ends(words: Tokenizer) -> None:
    text, ids = tiny(words), words.encode("The boat was red")
    assert text.answer([*ids[:2], EOT, *ids[2:]]) == text.answer([*ids[:2], EOS, EOT]) == ids[:2]
    assert text.decode([*ids, EOS, *ids]) == "The boat was red"
    assert text.decode(ids, until=("was", "boat")) == "The "
    assert text.decode([*ids[:2], MASK], show_mask="#") == words.decode(ids[:2]) + "#"
    assert text.has_ended([*ids, EOS])
    assert text.has_ended(ids, until=("was",))
    assert not text.has_ended(ids, until=("wide",))
    assert (count_before([4, 5, 6], {6, 5}), count_before([4], ()), count_before([], {1})) == (1, 1, 0)


def test_a_template_ends_answers_with_its_own_token(words: Tokenizer) -> None:
    model = tiny(Lacking(words, ["eos", "eot"]))
    assert model.stop_token_ids == {EOT}  # of the tokenizer's own template
    with pytest.raises(ValueError, match="no special token 'eot'"):  # a template that was chosen must fit
        assert replace(model, template=llada_template()).stop_token_ids
    plain = Lacking(words, ["eos", "eot"])
    plain.chat_template = None
    assert replace(model, tokenizer=plain).stop_token_ids == frozenset()
    plain.chat_template = "{{ raise_exception('no') }}"
    refused = replace(model, tokenizer=plain)
    assert refused.stop_token_ids == frozenset()  # plain texts need no template
    with pytest.raises(ValueError, match="no"):
        refused.encode_messages([Message("user", "x")])


def test_a_next_token_model_scores_after_bos_or_eos(
    words: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(words.vocab_size, 32, 1, 2, max_length=64, causal=True, shift=True)
    model = AutoregressiveLM(backbone, MaskingProcess(MASK)).eval()
    for lacks, first in (((), BOS), (("bos",), EOS)):
        text = TextModel(model, Lacking(words, lacks))
        monkeypatch.setattr(score, "load", lambda *_, found=text: found)
        assert main(["score", "a.ckpt", "--prompt", "", "--answer", "The boat", "--jsonl"]) == 0
        found = json.loads(capsys.readouterr().out)["log_likelihood"]
        pair = EvaluationModel(text).encode_pair("", "The boat")
        assert pair.context == [first]
        exact = NextTokenLikelihood()(model.backbone, model.process, [[first]], [words.encode("The boat")])
        assert found == pytest.approx(exact.log_likelihood.item(), abs=1e-6)
        assert EvaluationModel(text).log_likelihoods([pair], [0])[0][0] == pytest.approx(found, abs=1e-6)
    with pytest.raises(ValueError, match="needs BOS or EOS"):
        TextModel(model, Lacking(words, ["bos", "eos"])).context([])
