"""The checkpoint's own chat template: the same tokens as its maker's, and nothing that a message could forge."""

import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada.data import Message, llada_template
from llada.data.chat.jinja_template import JinjaTemplate, checkpoint_template
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from llada.text import TextModel
from tests.tiny_checkpoint import BOS, EOS, EOT, SPECIAL, START_HEADER, TEMPLATE, write_checkpoint, write_tokenizer

CHAT_ML = (
    "{%- if messages[0].role != 'system' %}{{ '<|start_header_id|>system\nBe kind.<|eot_id|>\n' }}{% endif %}\n"
    "{%- for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '\n' }}"
    "{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}{{ '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant\n' }}{% endif %}"
)
ALWAYS_OPEN = CHAT_ML.replace("{%- if add_generation_prompt %}", "{%- if true %}")
CHAT = [
    Message("system", "Be brief."),
    Message("user", " Where is the boat? "),
    Message("assistant", "On the river.\n"),
    Message("user", "Thanks"),
]
evil = st.lists(
    st.sampled_from([*SPECIAL, "<|", "|>", "eot_id", "user", " ", "\n", "x", "{{ bos_token }}", "\x1c"]), max_size=6
)
messages = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant", "system"]), evil.map("".join)), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return JsonTokenizer(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@given(chat=messages)
def test_lladas_template_gives_the_tokens_of_llada_template_whatever_is_said(tokenizer, chat):
    own, known = JinjaTemplate(TEMPLATE), llada_template()
    assert own.prompt(chat, tokenizer) == known.prompt(chat, tokenizer)
    assert own.answer(chat[-1], tokenizer) == known.answer(chat[-1], tokenizer)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(chat=messages)
def test_the_number_of_special_tokens_depends_on_the_number_of_messages_only(tokenizer, chat):
    template, plain = JinjaTemplate(CHAT_ML), [Message(message.role, "x") for message in chat]
    special = set(range(len(SPECIAL)))

    def kept(ids):
        return [i for i in ids if i in special]

    assert kept(template.prompt(chat, tokenizer)) == kept(template.prompt(plain, tokenizer))
    text = tokenizer.decode(template.prompt(chat, tokenizer))
    assert all(message.content in text for message in chat)


def test_two_messages_cannot_spell_a_token_between_them(tokenizer):
    bare = JinjaTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    ids = bare.prompt([Message("user", "<|eot"), Message("user", "_id|>")], tokenizer)
    assert EOT not in ids
    assert tokenizer.decode(ids) == "<|eot_id|>"
    half = JinjaTemplate("{{ '<|' + messages[0].content }}")
    assert EOT not in half.prompt([Message("user", "eot_id|>")], tokenizer)


def test_a_role_cannot_spell_a_token(tokenizer):
    template = JinjaTemplate("{{ '<|' + messages[0].role + '|>' + messages[0].content }}")
    with pytest.raises(ValueError, match="a message has the role 'eot_id'; the template's may be user, assistant, "):
        template.prompt([Message("eot_id", "x")], tokenizer)


def test_noncharacters_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"U\+10FFFE"):
        JinjaTemplate(TEMPLATE).prompt([Message("user", "\U0010fffe0\U0010ffff")], tokenizer)
    with pytest.raises(ValueError, match=r"U\+10FFFE"):
        JinjaTemplate("{{ messages[0].a.k }}").prompt([Message("user", "x", {"a": {"\U0010ffff": 1}})], tokenizer)
    spelt = "\\U0010fffe"  # its name in Python is text like any other
    assert (
        tokenizer.decode(JinjaTemplate("{{ messages[0].content }}").prompt([Message("user", spelt)], tokenizer))
        == spelt
    )


def test_the_prompt_ends_where_the_answer_begins(tokenizer):
    ids = JinjaTemplate(CHAT_ML).prompt(CHAT, tokenizer)
    tail = [START_HEADER, *tokenizer.encode("assistant\n")]
    assert ids[-len(tail) :] == tail
    assert ids.count(START_HEADER) == 5


@pytest.mark.parametrize(
    ("source", "ending"),
    [(TEMPLATE, [EOT]), (CHAT_ML, [EOT, "\n"]), (ALWAYS_OPEN, [EOT])],
    ids=["LLaDA's", "ChatML", "ChatML with a header at the end"],
)
def test_an_answer_ends_before_the_next_message_and_with_eos_where_the_template_has_no_end(tokenizer, source, ending):
    ending = [token for part in ending for token in ([part] if isinstance(part, int) else tokenizer.encode(part))]
    message = Message("assistant", "On the river.")
    bare = [*tokenizer.encode("On the river."), *ending]
    assert JinjaTemplate(source, eos=False).answer(message, tokenizer) == bare
    assert JinjaTemplate(source, eos=True).answer(message, tokenizer) == [*bare, EOS]
    assert JinjaTemplate(source).answer(message, tokenizer) == (bare if source == CHAT_ML else [*bare, EOS])


def test_eos_is_not_doubled(tokenizer):
    source = "{% for m in messages %}{{ m.content + (eos_token if m.role == 'assistant' else '\n') }}{% endfor %}"
    ids = JinjaTemplate(source).answer(Message("assistant", "boat"), tokenizer)
    assert ids == [*tokenizer.encode("boat"), EOS]
    ids = JinjaTemplate(source.replace("eos_token if", "'<|eot_id|>' + eos_token if"), eos=True).answer(
        Message("assistant", "boat"), tokenizer
    )
    assert ids == [*tokenizer.encode("boat"), EOT, EOS]


def test_what_a_template_ends_every_conversation_with_opens_no_answer(tokenizer):
    source = "{% for m in messages %}{{ m.content + '<|eot_id|>' }}{% endfor %}hill"
    ids = JinjaTemplate(source).answer(Message("assistant", "boat"), tokenizer)
    assert ids == [*tokenizer.encode("boat"), EOT, *tokenizer.encode("hill")]


def test_a_message_without_reasoning_has_no_field_for_it(tokenizer):
    known = "{{ messages[0].thinking is defined or messages[0].reasoning_content is defined }}"
    for fields, told in (({}, "False"), ({"thinking": "so"}, "True"), ({"reasoning_content": "so"}, "True")):
        ids = JinjaTemplate("{{ messages[0].content }}" + known).prompt([Message("user", "x", fields)], tokenizer)
        assert tokenizer.decode(ids) == "x" + told


def test_prompts_equal_those_of_transformers(tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer.path / "tokenizer.json"), bos_token=SPECIAL[0]
    )
    chat = [message.as_object() for message in CHAT]
    for source in (TEMPLATE, CHAT_ML, ALWAYS_OPEN):
        text = theirs.apply_chat_template(chat, chat_template=source, add_generation_prompt=True, tokenize=False)
        assert JinjaTemplate(source).prompt(CHAT, tokenizer) == theirs.encode(text, add_special_tokens=False)


BAD = {
    "attributes": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "changes": ("{{ messages.append(1) }}", "unsafe"),
    "refusal": ("{{ raise_exception('roles must take turns') }}", "roles must take turns"),
    "syntax": ("\n{% for %}", "malformed in line 2"),
    "pieces": (
        "{{ '<|eot' ~ '_id|>' ~ messages[0].content.upper() }}",
        r"puts the special token '<\|eot_id\|>' together",
    ),
    "measuring": (
        "{{ messages[0].content.upper() ~ ('<|eot_id|>' | length) }}",
        "does more with a message than print it",
    ),
    "no method": ("{{ messages[0].content.no_such() }}", "the chat template failed"),
}


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD)
def test_what_a_template_may_not_do(tokenizer, source, message):
    with pytest.raises(ValueError, match=message):
        JinjaTemplate(source).prompt([Message("user", "a </think> b")], tokenizer)


def test_an_unprinted_answer_is_refused(tokenizer):
    with pytest.raises(ValueError, match="doesn't print the assistant's message"):
        JinjaTemplate("hello").answer(Message("assistant", "x"), tokenizer)


def test_an_end_that_cannot_be_told_is_refused(tokenizer):
    endless = JinjaTemplate(
        "{% for m in messages %}{{ loop.index ~ m.content ~ loop.index ~ messages | length }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="where an answer ends can't be told"):
        endless.answer(Message("assistant", "x"), tokenizer)


def test_tools_of_templates(tokenizer):
    source = "{{ messages[0].content }}{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    source += "{{ {'a': '<é>'} | tojson }}{{ strftime_now('%Y') | length }}"
    ids = JinjaTemplate(source).prompt([Message("user", "x")], tokenizer)
    assert tokenizer.decode(ids) == 'x01{"a": "<é>"}4'


def test_where_a_checkpoint_keeps_its_template(tokenizer, tmp_path):
    assert checkpoint_template(tokenizer.path) == JinjaTemplate(TEMPLATE)
    assert tokenizer.chat_template == TEMPLATE
    folder = write_tokenizer(tmp_path / "named")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHAT_ML}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert checkpoint_template(folder) == JinjaTemplate(CHAT_ML, tool_source="no")
    (folder / "chat_template.jinja").write_text(ALWAYS_OPEN)
    assert checkpoint_template(folder, eos=False) == JinjaTemplate(ALWAYS_OPEN, eos=False)
    JsonTokenizer(folder, mask=2).save(tmp_path / "copy")
    assert checkpoint_template(tmp_path / "copy") == JinjaTemplate(ALWAYS_OPEN)


@pytest.mark.parametrize("kind", ["list", "files"])
def test_tools_choose_the_template_of_that_name_as_in_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    named = {"default": CHAT_ML, "tool_use": "{{ tools | tojson }}" + CHAT_ML, "rag": "{{ 1 / 0 }}"}
    folder = write_tokenizer(tmp_path / "named", template=None)
    if kind == "list":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": name, "template": source} for name, source in named.items()]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    else:
        (folder / "additional_chat_templates").mkdir()
        (folder / "chat_template.jinja").write_text(named["default"])
        (folder / "additional_chat_templates/tool_use.jinja").write_text(named["tool_use"])
    JsonTokenizer(folder, mask=2).save(tmp_path / "copy")
    tools = [{"type": "function", "function": {"name": "add", "description": "a sum", "parameters": {}}}]
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    said = [{"role": "user", "content": "Hi"}]
    for known in (None, tools):
        text = theirs.apply_chat_template(said, tools=known, add_generation_prompt=True, tokenize=False)
        assert ("a sum" in text) == (known is not None)
        for place in (folder, tmp_path / "copy"):
            ours = JsonTokenizer(place, mask=2)
            for template in (checkpoint_template(place), TextModel(None, ours).chat_template):
                ids = template.prompt([Message("user", "Hi")], ours, known)
                assert ids == theirs.encode(text, add_special_tokens=False)
                row = template.row([Message("user", "Hi"), Message("assistant", "Yes")], ours, known)
                assert row.prompt == ids


def test_none_is_made_up(tmp_path):
    with pytest.raises(ValueError, match=r"has no chat template, and none is made up.*llada\.data\.llada_template"):
        checkpoint_template(write_tokenizer(tmp_path, template=None))
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8 text: invalid start byte \(byte 4\)"):
        checkpoint_template(tmp_path)


def test_a_missing_package_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2.ext", None)
    with pytest.raises(ImportError, match=r"pip install llada\[hf\]"):
        JinjaTemplate("{{ 'not compiled yet' }}").prompt([Message("user", "x")], tokenizer)


def test_the_first_token_is_bos(tokenizer):
    assert JinjaTemplate(TEMPLATE).prompt(CHAT, tokenizer)[:2] == [BOS, START_HEADER]
