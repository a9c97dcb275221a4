"""Rows of a training against what transformers writes for the same conversation, template by template."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from llada.data import (
    ChatMessages,
    FirstFitDecreasing,
    InstructionDataModule,
    JinjaTemplate,
    JsonLines,
    llada_template,
)
from llada.data.chat import jinja_template
from llada.data.chat.chat_template import make_row
from llada.data.chat.conversations import read_messages, read_tools
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from tests.data.chat.templates import EOS_OF, EVIL, ONE, PLAIN, SPECIAL, TEMPLATES, TOOLS, WITH_TOOLS, chat

transformers = pytest.importorskip("transformers")
STORY = 'The boat was red. User: Assistant: <think> add </think> def f(x):\n    return x\n\n12 boats {"name": "add"}\n'


def named(eos: str) -> dict[str, str]:
    return {"mask_token": "<|mask|>", "eos_token": eos, "pad_token": "<|endoftext|>", "bos_token": "<s>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """EOS -> the folder of a tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([STORY] * 3, trainer)
    trained.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    trained.add_tokens([AddedToken(name, normalized=False) for name in PLAIN])
    folders = {}
    for eos in set(EOS_OF.values()):
        folders[eos] = tmp_path_factory.mktemp("tokenizer")
        trained.save(str(folders[eos] / "tokenizer.json"))
        (folders[eos] / "tokenizer_config.json").write_text(json.dumps(named(eos)))
    return folders


def theirs(folder: Path, eos: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named(eos))


def cases() -> list[tuple[str, list[dict[str, Any]], dict[str, Any], list[dict[str, Any]] | None]]:
    """Every template with every conversation up to each of its answers, and its variables and tools."""
    found = []
    for name, (_, _, chats, settings) in TEMPLATES.items():
        for messages, variables, tools in product(chats, settings, (None, TOOLS) if name in WITH_TOOLS else (None,)):
            for turn, message in enumerate(messages):
                if message["role"] == "assistant":
                    found.append((name, messages[: turn + 1], variables, tools))
    return found


CASES = cases()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_row_is_what_transformers_writes(folders: dict[str, Path], name: str) -> None:
    source, eos, _, _ = TEMPLATES[name]
    tokenizer, hf = JsonTokenizer(folders[eos]), theirs(folders[eos], eos)
    for _, messages, variables, tools in (case for case in CASES if case[0] == name):
        template = JinjaTemplate(source, variables=variables)
        read = read_messages({"messages": messages}, "messages", "here")
        whole = hf.apply_chat_template(messages, tools=tools, chat_template=source, return_dict=False, **variables)
        prompt, answer = template.row(read, tokenizer, tools)
        assert prompt + answer == whole
        assert answer
        ahead = hf.apply_chat_template(
            messages[:-1], tools=tools, chat_template=source, return_dict=False, add_generation_prompt=True, **variables
        )
        assert template.prompt(read[:-1], tokenizer, tools) == ahead
        assert prompt == ahead[: len(prompt)]
        assert answer[:1] != ahead[len(prompt) :][:1]  # the beginning that they share is the longest


def test_as_many_templates_and_rows_as_the_documentation_says() -> None:
    page = Path(__file__).parents[3] / "docs" / "chat.md"
    assert f"{len(CASES)} rows of {len(TEMPLATES)} templates" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("packing", [None, FirstFitDecreasing()], ids=["a row each", "packed"])
def test_rows_of_a_data_module(folders: dict[str, Path], tmp_path: Path, packing: Any) -> None:
    source, eos, chats, _ = TEMPLATES["Qwen3"]
    hf = theirs(folders[eos], eos)
    records = [{"messages": messages} for messages in chats] + [{"messages": chats[0], "tools": json.dumps(TOOLS)}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = InstructionDataModule(
        ChatMessages(JsonLines(str(tmp_path / "chats.jsonl"))),
        JsonTokenizer(folders[eos]),
        max_length=700,
        batch_size=1,
        template=JinjaTemplate(source),
        val_fraction=0.0,
        cache_folder=str(tmp_path / "cache"),
        packing=packing,
    )
    data.prepare_data()
    data.setup("fit")
    rows = data.rows("train")
    if packing is None:
        found = [rows.row(index).tokens.tolist() for index in range(len(rows))]
    else:
        found = []
        for index in range(len(rows)):
            row = rows[index]
            real = row.get("attention_mask", row["tokens"] >= 0)
            segments = row["segment_ids"][real]
            found += [row["tokens"][real][segments == k].tolist() for k in range(int(segments.max()) + 1)]
    wanted = []
    for record in records:
        tools = TOOLS if "tools" in record else None
        for turn, message in enumerate(record["messages"]):
            if message["role"] == "assistant":
                options = {"tools": tools, "chat_template": source, "return_dict": False}
                wanted.append(hf.apply_chat_template(record["messages"][: turn + 1], **options))
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_user_writes_forges_no_token(folders: dict[str, Path], name: str) -> None:
    """Transformers reads the special tokens that a user spells; here they stay text."""
    source, eos, _, settings = TEMPLATES[name]
    tokenizer, hf = JsonTokenizer(folders[eos]), theirs(folders[eos], eos)
    template, special = JinjaTemplate(source, variables=settings[0]), set(tokenizer.special_tokens.values())
    calm, evil = chat(("user", "x"), ("assistant", "y")), chat(("user", EVIL), ("assistant", "y"))

    def kept(messages: list[dict[str, Any]]) -> list[int]:
        row = template.row(read_messages({"messages": messages}, "messages", "here"), tokenizer)
        return [token for token in [*row.prompt, *row.answer] if token in special]

    assert kept(evil) == kept(calm)
    forged = hf.apply_chat_template(evil, chat_template=source, return_dict=False, **settings[0])
    assert len([token for token in forged if token in special]) > len(kept(calm))
    said = tokenizer.decode(template.prompt(read_messages({"messages": evil[:1]}, "messages", "here"), tokenizer))
    assert EVIL.splitlines()[0] in said
    assert ONE[0]["content"] not in said


WRITES = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
WRITES += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
REFUSED = {
    "calls": ({"tool_calls": [{"function": {"name": "f"}}]}, "doesn't write the field 'tool_calls' of a message with"),
    "reasoning": ({"reasoning_content": "add"}, "doesn't write the field 'reasoning_content'"),
    "another name": ({"thinking": "add"}, "doesn't write the field 'thinking'"),
    "unknown": ({"priority": 1}, r"doesn't write the field 'priority' .* ignore_fields=\['priority'\]"),
    "no content": ({"content": None, "tool_calls": [1]}, "has no attribute 'content'|doesn't write the field"),
    "parts": ({"content": [{"type": "text", "text": "y"}]}, 'can only concatenate str .not "list"'),
    "picture": ({"content": [{"type": "image"}]}, "a part of type 'image'; these models read text alone"),
    "number": ({"content": 3}, "field 'content' must be text; got int"),
}


@pytest.mark.parametrize(("entries", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_template_cannot_write_is_refused_by_name(
    folders: dict[str, Path], entries: dict[str, Any], reason: str
) -> None:
    tokenizer = JsonTokenizer(folders["<|im_end|>"])
    messages = [ONE[0], {"role": "assistant", "content": "y", **entries}]
    with pytest.raises(ValueError, match=reason):
        JinjaTemplate(WRITES).row(read_messages({"messages": messages}, "messages", "here"), tokenizer)
    with pytest.raises(ValueError, match=r"this template writes role and content alone|field 'content'"):
        llada_template().row(read_messages({"messages": messages}, "messages", "here"), tokenizer)


def test_parts_are_not_printed_as_a_python_list(folders: dict[str, Path]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "y"}]}]
    printed = JinjaTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="takes no list of parts as the content of the role 'user'"):
        printed.prompt(read_messages({"messages": messages}, "messages", "here"), JsonTokenizer(folders["<|im_end|>"]))
    looked_into = JinjaTemplate("{% for m in messages %}{{ m.content if m.content.startswith('a') }}{% endfor %}")
    with pytest.raises(ValueError, match="role 'user' is a list of parts, which few templates take; join the parts"):
        looked_into.prompt(
            read_messages({"messages": messages}, "messages", "here"), JsonTokenizer(folders["<|im_end|>"])
        )


def test_tools_are_written_or_refused(folders: dict[str, Path]) -> None:
    tokenizer, messages = JsonTokenizer(folders["<|im_end|>"]), read_messages({"messages": ONE}, "messages", "here")
    for template in (JinjaTemplate(WRITES), llada_template()):
        with pytest.raises(ValueError, match=r"there are tools, which .* doesn't write"):
            make_row(template, messages, tokenizer, TOOLS)
    assert (
        read_tools({"tools": json.dumps(TOOLS)}, "tools", "here") == TOOLS == read_tools({"tools": TOOLS}, "tools", "")
    )
    assert read_tools({"tools": []}, "tools", "here") is read_tools({}, "tools", "here") is None
    with pytest.raises(ValueError, match="here: field 'tools' must be a list of objects; got dict"):
        read_tools({"tools": {"name": "f"}}, "tools", "here")
    with pytest.raises(ValueError, match="here, field 'tools': malformed JSON"):
        read_tools({"tools": "[{"}, "tools", "here")


def test_what_is_left_out_on_purpose(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jinja_template, "_warned", set())  # what other tests have been warned of
    tokenizer = JsonTokenizer(folders["<|im_end|>"])
    labelled = [ONE[0] | {"id": "7"}, ONE[1] | {"weight": 1}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": labelled, "tools": TOOLS}))
    records = JsonLines(str(tmp_path / "chats.jsonl"))
    (found,) = ChatMessages(records, ignore_fields=["weight", "tools"])
    assert found.tools is None
    bare = JinjaTemplate(WRITES).row(read_messages({"messages": ONE}, "messages", "here"), tokenizer)
    assert JinjaTemplate(WRITES).row(found.messages, tokenizer) == bare  # "id" says nothing: a warning is enough
    assert "doesn't write the field 'id' of messages" in caplog.text


def test_what_says_that_all_is_as_usual_is_no_field() -> None:
    question, answer = ONE[0] | {"weight": 0, "train": False}, ONE[1] | {"weight": 1, "train": True}
    assert read_messages({"messages": [question, answer]}, "messages", "") == read_messages(
        {"messages": ONE}, "messages", ""
    )
    with pytest.raises(
        ValueError, match=r"field 'messages' must be .*; 'conversations' are read by llada.data.ShareGPT"
    ):
        read_messages({"conversations": []}, "messages", "here")


@pytest.mark.parametrize("entry", [{"weight": 0}, {"train": False}, {"weight": 0.5}, {"loss": False}])
def test_an_answer_that_is_to_be_learned_otherwise_is_refused(entry: dict[str, Any]) -> None:
    ((name, value),) = entry.items()
    messages = [ONE[0], ONE[1] | entry]
    with pytest.raises(ValueError, match=rf"here: an answer has {name}={value}, .* ignore_fields=\['{name}'\]"):
        read_messages({"messages": messages}, "messages", "here")
    assert read_messages({"messages": messages}, "messages", "here", [name]) == read_messages(
        {"messages": ONE}, "messages", ""
    )


def test_an_answer_that_is_torn_is_refused(folders: dict[str, Path]) -> None:
    tokenizer, (source, _, _, _) = JsonTokenizer(folders["<|im_end|>"]), TEMPLATES["Qwen3"]
    thought = read_messages(
        {"messages": chat(("user", "2+2?"), ("assistant", "<think>\nadd\n</think>\n\n4"))}, "messages", ""
    )
    with pytest.raises(ValueError, match="ends inside the answer's text"):
        JinjaTemplate(source, variables={"enable_thinking": False}).row(thought, tokenizer)
    late = "{% for m in messages %}{{ ('<|sep|>' if loop.last and m.role == 'user' else '') ~ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="writes the question otherwise once it is answered"):
        JinjaTemplate(late + "{% if add_generation_prompt %}?{% endif %}").row(thought, tokenizer)


def test_reasoning_goes_by_each_of_its_names(folders: dict[str, Path]) -> None:
    tokenizer = JsonTokenizer(folders["<|im_end|>"])
    for name in ("reasoning", "reasoning_content", "thinking"):
        messages = read_messages({"messages": [ONE[0], ONE[1] | {name: "add"}]}, "messages", "here")
        for read in ("thinking", "reasoning_content"):
            template = JinjaTemplate(WRITES.replace("m.content", f"(m.{read} or '') + m.content"))
            assert tokenizer.decode(template.row(messages, tokenizer).answer) == "addOn the river.\n"
