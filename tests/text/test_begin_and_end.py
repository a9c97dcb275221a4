"""Where a text begins and an answer ends, as the files of a checkpoint say it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llada.data import JinjaTemplate, Message, load_tokenizer, plain_template
from llada.data.chat.chat_template import FixedBos
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from llada.text import TextModel, load
from tests.tiny_checkpoint import BOS, END_HEADER, EOS, EOT, SPECIAL, START_HEADER, write_checkpoint

QUESTION = [Message("user", "x")]


def change(file: Path, **entries: Any) -> None:
    """Set entries of a JSON file; None takes one away."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    kept = {name: value for name, value in (content | entries).items() if value is not None}
    file.write_text(json.dumps(kept))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def template_processing(*names: str) -> dict[str, Any]:
    single = [
        {"SpecialToken": {"id": name, "type_id": 0}} if name else {"Sequence": {"id": "A", "type_id": 0}}
        for name in names
    ]
    ids = {name: {"id": name, "ids": [SPECIAL.index(name)], "tokens": [name]} for name in names if name}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids}


STARTS, ENDS = template_processing(SPECIAL[BOS], ""), template_processing("", SPECIAL[EOS])
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ROBERTA = {
    "type": "RobertaProcessing",
    "sep": [SPECIAL[EOS], EOS],
    "cls": [SPECIAL[BOS], BOS],
    "trim_offsets": True,
    "add_prefix_space": False,
}
# add_bos_token, post_processor, whether a text begins with BOS
RULES = {
    "said no": (False, STARTS, False),
    "said yes": (True, None, True),
    "processor": (None, STARTS, True),
    "processor in a sequence": (None, {"type": "Sequence", "processors": [BYTES, STARTS]}, True),
    "processor of the end": (None, ENDS, False),
    "Roberta's processor": (None, ROBERTA, True),
    "other processor": (None, BYTES, False),
    "nothing": (None, None, False),
}


@pytest.mark.parametrize(("said", "processor", "begins"), RULES.values(), ids=RULES)
def test_a_text_begins_as_the_tokenizer_says(folder: Path, said: bool | None, processor: Any, begins: bool) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=said)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": processor}))
    text = load(str(folder), device="cpu")
    bare = text.tokenizer.encode("The boat")
    assert text.encode("The boat") == ([BOS, *bare] if begins else bare)
    assert text.encode_gaps("The [MASK]")[0] == (BOS if begins else bare[0])
    assert replace(text, bos=True).encode("The boat") == [BOS, *bare]
    assert replace(text, bos=False).encode("The boat") == bare
    text.tokenizer.save(folder.parent / "copy")
    assert load_tokenizer(folder.parent / "copy").adds_bos is begins
    if said is None:
        hf = pytest.importorskip("transformers").PreTrainedTokenizerFast.from_pretrained(folder)
        assert text.encode("The boat") == hf("The boat")["input_ids"][: len(bare) + begins]


def test_without_a_bos_none_is_written(folder: Path) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=True, bos_token=None)
    (folder / "special_tokens_map.json").unlink()
    text = load(str(folder), device="cpu")
    assert replace(text, bos=True).encode("The") == text.encode("The") == text.tokenizer.encode("The")
    # A template that begins with BOS, if there is one.
    said = text.tokenizer.encode("The\n")
    assert plain_template().prompt([Message("user", "The")], text.tokenizer) == said


def test_bos_of_conversations_can_be_chosen(folder: Path) -> None:
    words = load(str(folder), device="cpu").tokenizer
    with_bos, without = (
        JinjaTemplate("{{ bos_token }}{{ messages[0].content }}"),
        JinjaTemplate("{{ messages[0].content }}"),
    )
    bare = words.encode("x")
    for template in (with_bos, without):
        assert FixedBos(template, True).prompt(QUESTION, words) == [BOS, *bare]
        assert FixedBos(template, False).prompt(QUESTION, words) == bare
    chat = [*QUESTION, Message("assistant", "The boat")]
    row = JinjaTemplate("{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}").row(
        chat, words
    )
    inner = FixedBos(
        JinjaTemplate("{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"), False
    )
    assert inner.row(chat, words) == (row.prompt[1:], row.answer)


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        (EOS, None, {EOS, EOT}),
        (EOS, 7, {EOS, EOT, 7}),
        ([EOS, 8], [7, EOS], {EOS, EOT, 7, 8}),
        (9, [], {9, EOS, EOT}),
        (-1, [7, -1], {EOS, EOT, 7}),
    ],
)
def test_every_stop_id_counts(folder: Path, config: Any, generation: Any, stops: set[int]) -> None:
    change(folder / "config.json", eos_token_id=config)
    change(folder / "generation_config.json", eos_token_id=generation)
    text = load(str(folder), device="cpu")
    assert text.stop_token_ids == stops
    ids = text.tokenizer.encode("The boat")
    assert all(text.decode([*ids, stop, *ids]) == "The boat" for stop in stops)
    assert all(text.has_ended([*ids, stop]) for stop in stops)
    # Also when the model comes from elsewhere, or the tokenizer goes elsewhere alone.
    assert TextModel(text.model, text.tokenizer).stop_token_ids == stops
    text.tokenizer.save(folder.parent / "copy")
    assert TextModel(text.model, load_tokenizer(folder.parent / "copy")).stop_token_ids == stops
    assert replace(text, tokenizer=JsonTokenizer(folder, mask=2), stops=frozenset()).stop_token_ids == stops


def test_the_files_count_beside_a_tokenizer_from_elsewhere(folder: Path) -> None:
    other = write_checkpoint(folder.parent / "other")
    change(folder / "generation_config.json", eos_token_id=[EOS, 9])
    assert 9 in load(str(folder), str(other), device="cpu").stop_token_ids


@pytest.mark.parametrize("entry", ["2", [1, "2"], True, [False], -2, 1.0])
def test_what_is_no_stop_id_is_named(folder: Path, entry: Any) -> None:
    change(folder / "generation_config.json", eos_token_id=entry)
    with pytest.raises(ValueError, match=r"generation_config\.json says that eos_token_id is .*, which is no token id"):
        JsonTokenizer(folder)


def test_what_stands_before_an_answer_doesnt_end_it(folder: Path) -> None:
    source = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}{% if m.role == 'assistant' %}"
        "<|end_header_id|>{% endif %}{{ m.content }}<|eot_id|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant{% endif %}"
    )
    text = replace(load(str(folder), device="cpu"), template=JinjaTemplate(source))
    row = JinjaTemplate(source).row([*QUESTION, Message("assistant", "The")], text.tokenizer)
    assert END_HEADER in row.answer
    assert text.stop_token_ids == {EOS, EOT}
    assert START_HEADER not in text.stop_token_ids


def test_variables_reach_the_template(folder: Path) -> None:
    source = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
    text = load(str(folder), device="cpu")
    quiet = replace(text, template=JinjaTemplate(source), variables={"enable_thinking": False})
    assert text.tokenizer.decode(quiet.encode_messages(QUESTION)) == "x!"
    assert text.tokenizer.decode(replace(quiet, variables={}).encode_messages(QUESTION)) == "x"
    with pytest.raises(ValueError, match=r"MarkupTemplate has no variables, so enable_thinking would be ignored"):
        replace(quiet, template=plain_template()).encode_messages(QUESTION)
