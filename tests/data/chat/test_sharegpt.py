"""Chats in the form of ShareGPT are the chats that ``messages`` would give."""

import json
from pathlib import Path

import pytest

from llada.data import ChatMessages, JsonLines, Message, ShareGPT


def source(tmp_path: Path, *records: dict) -> ShareGPT:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return ShareGPT(JsonLines(str(tmp_path / "a.jsonl")))


def test_turns_are_messages(tmp_path: Path) -> None:
    said = [("human", "Hi"), ("gpt", "Hello"), ("human", "Bye"), ("gpt", "")]
    turns = [{"from": who, "value": what, "weight": 1} for who, what in said]
    found = list(source(tmp_path, {"id": "7", "conversations": turns}, {"conversations": turns, "system": "Be kind."}))
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[who], "content": what} for who, what in said]
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": messages}))
    (same,) = ChatMessages(JsonLines(str(tmp_path / "b.jsonl")))
    assert found[0].messages == same.messages
    assert found[1].messages[0] == Message("system", "Be kind.")
    assert found[1].messages[1:] == same.messages


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, r"line 2: field 'conversations' must be a list with at least one turn"),
        ({"conversations": []}, r"line 2: field 'conversations' must be a list"),
        ({"conversations": ["Hi"]}, r"line 2, turn 1: must be an object with 'from' and 'value'; got str"),
        ({"conversations": [{"from": "human"}]}, r"line 2, turn 1: there is no field 'value'"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, r"the speaker 'tool' is none of 'human',.*say its role"),
        ({"conversations": [{"from": "gpt", "value": None}]}, r"field 'value' must be text; got NoneType"),
    ],
)
def test_what_is_wrong_is_named(record: dict, reason: str, tmp_path: Path) -> None:
    good = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    with pytest.raises(ValueError, match=reason):
        list(source(tmp_path, good, record))
