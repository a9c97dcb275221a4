"""A small file works with the defaults: a share of it that is no document becomes one, and the rest is trained on."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada.data import (
    ChatMessages,
    InstructionDataModule,
    JsonLines,
    PreferenceDataModule,
    PreferencePairs,
    SentencePieceTokenizer,
    TextDataModule,
    TokenFile,
)
from llada.data.split import SOON_READ, TEST, TRAIN, VAL, held_out, part_of

FRACTIONS = st.floats(0.0, 0.4)


@given(st.lists(st.text("ab", max_size=4), max_size=12), FRACTIONS, FRACTIONS)
def test_every_part_has_a_document_where_there_are_enough(keys: list[str], val: float, test: float) -> None:
    moved = held_out(keys, val, test)
    parts = {key: moved.get(key) or part_of(key, val, test) for key in keys}
    before = {key: part_of(key, val, test) for key in keys}
    wanted = {TRAIN, *[VAL] * (val > 0), *[TEST] * (test > 0)}
    if list(before.values()).count(TRAIN) >= 3:
        assert set(parts.values()) == wanted
    assert TRAIN in parts.values() or TRAIN not in before.values()
    assert all(before[key] == TRAIN for key in moved), "no document is taken out of a part that is held out"
    assert sorted(moved.values()) == sorted(set(moved.values()) - set(before.values())), "one each, where there is none"


def test_a_part_gets_the_document_that_a_larger_share_would_give_it_first() -> None:
    keys = [f"text {n}" for n in range(30)]
    (key,) = held_out(keys, 1e-9, 0.0)
    share = next(n / 1000 for n in range(1000) if VAL in {part_of(each, n / 1000, 0.0) for each in keys})
    assert [each for each in keys if part_of(each, share, 0.0) == VAL] == [key]
    assert held_out(keys[:1], 0.05, 0.05) == {}, "nothing would be left for training"


def made(kind: str, folder: Path, tokenizer: SentencePieceTokenizer, number: int, **settings: Any) -> Any:
    """A data module of a kind, of so many different documents, each twice."""
    words = [f"the boat {n}" for n in range(number)] * 2
    records = {
        "pairs": [{"prompt": word, "chosen": "red", "rejected": "a boat"} for word in words],
        "chats": [
            {"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": "yes"}]} for w in words
        ],
        "texts": [{"text": word} for word in words],
    }[kind]
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines, common = JsonLines(str(path)), {"cache_folder": str(folder / "cache"), "batch_size": 1, **settings}
    if kind == "pairs":
        return PreferenceDataModule(PreferencePairs(lines), tokenizer, max_length=60, **common)
    if kind == "chats":
        return InstructionDataModule(ChatMessages(lines), tokenizer, max_length=60, **common)
    return TextDataModule(lines, tokenizer, max_length=2, **common)


@pytest.mark.parametrize("number", [3, 40])
@pytest.mark.parametrize("kind", ["pairs", "chats", "texts"])
def test_a_small_file_has_training_and_validation_data(
    kind: str, number: int, tokenizer: SentencePieceTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    share = 1e-6  # of so few documents none
    with caplog.at_level(logging.WARNING, "llada"):
        data = made(kind, tmp_path, tokenizer, number, val_fraction=share, test_fraction=share)
        data.prepare_data()
    data.setup("fit")
    for part in (VAL, TEST):
        assert f"fell to the {part} data by its share; one is held out" in caplog.text
    train, val, test = (TokenFile(data.folder / f"{part}.tokens").num_documents for part in (TRAIN, VAL, TEST))
    assert val == test == 2 * {"pairs": 4, "chats": 2, "texts": 1}[kind], "a copy goes with its twin"
    assert train == (number - 2) * val
    assert len(list(data.val_dataloader())) > 0


def test_nothing_is_said_or_moved_where_the_share_has_documents(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llada"):
        made("texts", tmp_path, tokenizer, 40, val_fraction=0.3).prepare_data()
    assert "held out" not in caplog.text
    many = [str(n) for n in range(SOON_READ)]
    assert held_out(many, 0.05, 0.0) == {}
