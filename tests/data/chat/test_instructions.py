import json
import re
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from llada.data import (
    ChatMessages,
    CutRight,
    CutTurns,
    DropChat,
    DropRow,
    ExcludedPadding,
    InstructionDataModule,
    JsonLines,
    MarkupTemplate,
    Message,
    PromptAnswers,
    SentencePieceTraining,
    llada_template,
)
from llada.data.chat.chat_template import ChatRow

PAIRS = [{"prompt": "the boy", "answer": "red"}, {"prompt": "a", "answer": "the river was wide"}]
CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                  {"role": "user", "content": "boat"}, {"role": "assistant", "content": "red"}]},
    {"messages": [{"role": "system", "content": "wide"}, {"role": "user", "content": "river"},
                  {"role": "assistant", "content": "the hill"}]},
]  # fmt: skip


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return JsonLines(str(path))


def make(tokenizer, folder, source, **settings):
    defaults = {"max_length": 200, "batch_size": 2, "val_fraction": 0.0, "cache_folder": str(folder / "cache")}
    data = InstructionDataModule(source=source, tokenizer=tokenizer, **{**defaults, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def pairs(folder, records=PAIRS, **names):
    return PromptAnswers(jsonl(folder / "pairs.jsonl", records), **names)


def chats(folder, records=CHATS):
    return ChatMessages(jsonl(folder / "chats.jsonl", records))


def all_rows(data):
    rows = data.rows("train")
    return rows.__getitems__(list(range(len(rows))))


def test_a_short_answer_goes_on_with_eos_that_is_maskable(tokenizer, tmp_path):
    batch = all_rows(make(tokenizer, tmp_path, pairs(tmp_path)))
    encode = tokenizer.encode
    first, second = [2, *encode("the boy\n")], [2, *encode("a\n")]
    long = [*second, *encode("the river was wide"), 3]
    short = [*first, *encode("red")]
    assert batch["tokens"].tolist() == [short + [3] * (len(long) - len(short)), long]
    expected = [[False] * len(prompt) + [True] * (len(long) - len(prompt)) for prompt in (first, second)]
    assert batch["maskable"].tolist() == expected
    assert set(batch) == {"tokens", "maskable"}


def test_padding_may_be_left_out_of_the_answer(tokenizer, tmp_path):
    batch = all_rows(make(tokenizer, tmp_path, pairs(tmp_path), padding=ExcludedPadding()))
    answers = [
        tokenizer.decode(tokens[maskable].tolist())
        for tokens, maskable in zip(batch["tokens"], batch["maskable"], strict=True)
    ]
    assert answers == ["red", "the river was wide"]
    assert batch["maskable"].sum(1).tolist() == [len(tokenizer.encode(answer)) + 1 for answer in answers]
    assert torch.equal(batch["attention_mask"], batch["tokens"] != 1)


def test_every_answer_of_a_chat_is_a_row_with_what_came_before_as_prompt(tokenizer, tmp_path):
    data = make(tokenizer, tmp_path, chats(tmp_path), template=llada_template())
    rows = [data.rows("train").row(index) for index in range(3)]
    assert len(data.rows("train")) == 3
    spelt = [
        (
            tokenizer.decode(row.tokens[: row.answer_start].tolist()),
            tokenizer.decode(row.tokens[row.answer_start :].tolist()),
        )
        for row in rows
    ]
    assert spelt == [
        ("user\n\nHiassistant\n\n", "Yes?"),
        ("user\n\nHiassistant\n\nYes?user\n\nboatassistant\n\n", "red"),
        ("system\n\nwideuser\n\nriverassistant\n\n", "the hill"),
    ]
    for row in rows:
        assert row.tokens[-2:].tolist() == [tokenizer.eot_token_id, 3]
    assert len(make(tokenizer, tmp_path, chats(tmp_path), every_turn=False).rows("train")) == 2


def test_the_rows_of_a_chat_are_on_one_side_of_the_split(tokenizer, tmp_path):
    many = [
        {"messages": [{"role": role, "content": f"boat {n}"} for role in ("user", "assistant") * 3]} for n in range(60)
    ]
    data = make(tokenizer, tmp_path, chats(tmp_path, many), val_fraction=0.3)
    seen = {}
    for part in ("train", "val"):
        rows = data.rows(part)
        seen[part] = {tokenizer.decode(rows.row(i).tokens[-4:].tolist()) for i in range(len(rows))}
        assert len(rows) % 3 == 0
    assert len(data.rows("train")) + len(data.rows("val")) == 180
    assert not seen["train"] & seen["val"]
    held_out = {int(re.sub("[^0-9]", "", text)) for text in seen["val"]}
    assert held_out == {0, 2, 14, 17, 19, 23, 25, 26, 27, 28, 43, 46, 47, 52, 53, 58}  # as with every version


def turns(*said):
    return [
        {"role": role, "content": text} for role, text in zip(("user", "assistant") * len(said), said, strict=False)
    ]


LONG = [
    {"messages": [{"role": "system", "content": "S"}, *turns("the boy", "red", "river", "wide", "hill", "the boat")]},
    {"messages": turns("a", "b")},
]
MARKED = MarkupTemplate(ending=("|",), answer_ending=("|",))
FIRST, SECOND, LAST = ("S|the boy|", "red|"), ("S|the boy|red|river|", "wide|"), ("a|", "b|")
THIRD = ("S|the boy|red|river|wide|hill|", "the boat|")
OVER_LONG = {
    DropRow(): ([FIRST, SECOND, LAST], "1 left out"),
    DropChat(): ([LAST], "3 left out"),
    CutTurns(): ([FIRST, SECOND, ("S|river|wide|hill|", "the boat|"), LAST], "1 without their oldest turns"),
    CutRight(): ([FIRST, SECOND, (THIRD[0], "the boat"), LAST], "1 without the end of their answers"),
}


def spelt(data):
    rows = [data.rows("train").row(index) for index in range(len(data.rows("train")))]
    halves = [(row.tokens[: row.answer_start].tolist(), row.tokens[row.answer_start :].tolist()) for row in rows]
    return [tuple(data.tokenizer.decode(half) for half in both) for both in halves]


@pytest.mark.parametrize("policy", OVER_LONG)
def test_what_becomes_of_an_over_long_row(tokenizer, tmp_path, caplog, policy):
    source = chats(tmp_path, LONG)
    assert spelt(make(tokenizer, tmp_path, source, template=MARKED)) == [FIRST, SECOND, THIRD, LAST]
    limit = sum(len(tokenizer.encode(half)) for half in THIRD) - 1
    with pytest.raises(
        ValueError, match=rf"line 1: the row has {limit + 1} tokens, but max_length is {limit}; .*CutTurns"
    ):
        make(tokenizer, tmp_path, source, template=MARKED, max_length=limit)
    caplog.clear()
    data = make(tokenizer, tmp_path, source, template=MARKED, max_length=limit, over_long=policy)
    expected, told = OVER_LONG[policy]
    assert spelt(data) == expected
    assert caplog.messages == [f"1 of 4 rows have more than {limit} tokens: {told}"]


def test_what_cannot_be_cut_to_fit_is_left_out(tokenizer, tmp_path, caplog):
    records = [*LONG[1:], {"messages": turns("a", "b", "the boy and the river " * 9, "c")}]
    for policy in (CutTurns(), CutRight()):
        caplog.clear()
        data = make(tokenizer, tmp_path, chats(tmp_path, records), template=MARKED, max_length=12, over_long=policy)
        assert spelt(data) == [LAST, LAST]
        assert caplog.messages == ["1 of 3 rows have more than 12 tokens: 1 left out"]


def test_an_answer_is_cut_to_the_room_behind_its_prompt():
    row = ChatRow([1, 2, 3], [4, 5])
    assert CutRight().fit(row, [], len, 4) == ChatRow([1, 2, 3], [4])
    assert CutRight().fit(row, [], len, 3) is None


def test_answers_that_say_nothing_are_counted(tokenizer, tmp_path, caplog):
    make(
        tokenizer, tmp_path, pairs(tmp_path, [*PAIRS, {"prompt": "a", "answer": " \n"}, {"prompt": "b", "answer": ""}])
    )
    (told,) = caplog.messages
    assert "2 of 4 answers say nothing, the first one at" in told
    assert "pairs.jsonl, line 3; a model learns from them to end at once" in told


def test_a_message_is_a_plain_record():
    said = Message("user", "Hi", {"name": "Ann"})
    assert said == Message("user", "Hi", fields={"name": "Ann"}) != Message("user", "Hi")
    assert replace(said, content="Yes").as_object() == {"role": "user", "content": "Yes", "name": "Ann"}
    assert len({said, Message("user", "Hi", {"name": "Ann"})}) == 1
    with pytest.raises(FrozenInstanceError):
        said.role = "assistant"


def test_fields_have_names_of_their_own(tokenizer, tmp_path):
    source = pairs(tmp_path, [{"q": "the boy", "a": "red"}], prompt="q", answer="a")
    assert len(make(tokenizer, tmp_path, source, batch_size=1).rows("train")) == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": []}, "line 1: field 'messages' must be a list with at least one message"),
        ({}, "line 1: field 'messages' must be a list"),
        ({"messages": ["Hi"]}, "line 1: a message must be an object"),
        ({"messages": [{"role": "user"}]}, "line 1: there is no field 'content', only 'role'"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "line 1: there is no message with the role 'assistant'"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\ud800"}]},
            r"line 1: malformed JSON: \\u[0-9a-f]{4} is half a character",
        ),
    ],
)
def test_a_bad_chat_is_named(tokenizer, tmp_path, record, reason):
    with pytest.raises(ValueError, match=reason):
        make(tokenizer, tmp_path, chats(tmp_path, [record]))


def test_an_answer_without_tokens_is_named(tokenizer, tmp_path):
    source = pairs(tmp_path, [*PAIRS, {"prompt": "the boy", "answer": ""}])
    with pytest.raises(ValueError, match=r"line 3: the answer has no tokens, so no position of the row may be masked"):
        make(tokenizer, tmp_path, source, template=MarkupTemplate())


def test_a_missing_answer_is_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 1: there is no field 'answer', only 'prompt'"):
        make(tokenizer, tmp_path, pairs(tmp_path, [{"prompt": "a"}]))


def test_a_template_that_the_tokenizer_cannot_serve_is_named(plain_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"line 1: this tokenizer has no special token 'eot'"):
        make(plain_tokenizer, tmp_path, pairs(tmp_path), template=llada_template())


def test_a_tokenizer_may_be_trained_on_the_messages(tmp_path):
    records = [{"prompt": f"where is boat {n}", "answer": f"boat {n} is on the river"} for n in range(50)]
    data = make(SentencePieceTraining(vocab_size=290), tmp_path, pairs(tmp_path, records))
    assert data.tokenizer.vocab_size == 290
    assert len(data.tokenizer.encode("boat")) < 4


def test_canvases_are_prompts_with_masked_answers(tokenizer, tmp_path):
    data = make(tokenizer, tmp_path, pairs(tmp_path), test_source=pairs(tmp_path))
    (batch,) = data.predict_dataloader()
    clean = data.rows("test").__getitems__([0, 1])
    assert torch.equal(batch["tokens"], clean["tokens"].masked_fill(clean["maskable"], 4))


def test_a_wrong_max_length_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="max_length must be 1 or more; got 0"):
        make(tokenizer, tmp_path, pairs(tmp_path), max_length=0)
