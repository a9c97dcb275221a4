"""Pairs of answers, read as others write them, alone and packed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.data import (
    CutRight,
    CutTurns,
    DropRow,
    FirstFitDecreasing,
    JsonLines,
    Message,
    PreferenceDataModule,
    PreferencePairs,
    SentencePieceTokenizer,
)

USER = {"role": "user", "content": "the boy"}
SYSTEM = {"role": "system", "content": "wide"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def source(folder: Path, records: list[dict[str, Any]]) -> PreferencePairs:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return PreferencePairs(JsonLines(str(path)))


TEXT = {"prompt": "the boy", "chosen": "red", "rejected": "a boat"}
FORMS = [
    TEXT,
    {"prompt": "the boy", "chosen": [said("red")], "rejected": [said("a boat")]},
    {"prompt": "the boy", "chosen": [USER, said("red")], "rejected": [USER, said("a boat")]},
    {"prompt": [USER], "chosen": [said("red")], "rejected": [said("a boat")]},
    {"prompt": [USER], "chosen": "red", "rejected": "a boat"},
    {"prompt": [USER], "chosen": [USER, said("red")], "rejected": [USER, said("a boat")]},
    {"chosen": [USER, said("red")], "rejected": [USER, said("a boat")]},
    {"prompt": "the boy", "chosen": [SYSTEM, USER, said("red")], "rejected": [SYSTEM, USER, said("a boat")]},
]


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    found = list(source(tmp_path, FORMS))
    for number, pair in enumerate(found, 1):
        assert pair.where.endswith(f"line {number}")
        assert pair.prompt[-1] == Message("user", "the boy")
        assert (pair.chosen, pair.rejected) == (Message("assistant", "red"), Message("assistant", "a boat"))
    assert [len(pair.prompt) for pair in found] == [1] * 7 + [2]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "no field 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "no field 'prompt'"),
        ({"prompt": "a", "chosen": [USER], "rejected": [said("x")]}, "'chosen' must be the answer of the role"),
        ({"prompt": "other", "chosen": [USER, said("x")], "rejected": "y"}, "which aren't those of 'prompt'"),
        ({"chosen": [USER, said("x")], "rejected": [SYSTEM, said("y")]}, "answer different prompts"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_place(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        list(source(tmp_path, [record]))


RECORDS = [
    {"prompt": "the boy", "chosen": "red", "rejected": "the river was wide"},
    {"prompt": "a boat", "chosen": "the hill and the boy", "rejected": "home"},
    {"prompt": "his", "chosen": "mother", "rejected": "boat"},
    {"prompt": "up", "chosen": "the hill", "rejected": "the boat was red"},
]


def data(tokenizer: SentencePieceTokenizer, folder: Path, **settings: Any) -> PreferenceDataModule:
    made = PreferenceDataModule(
        source(folder, RECORDS), tokenizer, max_length=settings.pop("max_length", 40), batch_size=2, val_fraction=0.0,
        cache_folder=str(folder / "cache"), **settings,
    )  # fmt: skip
    made.prepare_data()
    made.setup("fit")
    return made


def texts(tokenizer: SentencePieceTokenizer, batch: dict[str, torch.Tensor], prefix: str) -> list[str]:
    rows = zip(batch[f"{prefix}tokens"], batch[f"{prefix}maskable"], strict=True)
    return [tokenizer.decode(row[maskable].tolist()) for row, maskable in rows]


def test_a_batch_has_both_answers(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    rows = data(tokenizer, tmp_path).rows("train")
    batch: Any = rows.__getitems__([2, 0, -1])
    assert texts(tokenizer, batch, "") == ["mother", "red", ""]
    assert texts(tokenizer, batch, "rejected_") == ["boat", "the river was wide", ""]
    assert batch["row"].tolist() == [2, 0, -1]
    for prefix in ("", "rejected_"):
        # Answers end with EOS; what is behind is neither answer nor seen.
        assert (batch[f"{prefix}tokens"][:2][batch[f"{prefix}maskable"][:2]] == 3).sum() == 2
        assert torch.equal(batch[f"{prefix}attention_mask"], batch[f"{prefix}tokens"] != 1)
    assert len(rows) == 4
    assert tokenizer.decode(rows.row(3).tokens[rows.row(3).answer_start :].tolist()) == "the hill"


def test_packed_segments_are_pairs(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    packed: Any = data(tokenizer, tmp_path, packing=FirstFitDecreasing()).rows("train")
    assert len(packed) < 4
    batch = packed.__getitems__(list(range(len(packed))))
    found = []
    for row in range(len(packed)):
        for segment in range(int(batch["segment_ids"][row].max())):
            both = []
            for prefix in ("", "rejected_"):
                own = (batch[f"{prefix}segment_ids"][row] == segment) & batch[f"{prefix}maskable"][row]
                both.append(tokenizer.decode(batch[f"{prefix}tokens"][row][own].tolist()))
            found.append(tuple(both))
    assert sorted(found) == sorted((record["chosen"], record["rejected"]) for record in RECORDS)
    total = int(batch["attention_mask"].sum() + batch["rejected_attention_mask"].sum())
    assert packed.fill == pytest.approx(total / (2 * len(packed) * 40))
    assert packed[0]["rejected_tokens"].shape == (40,)


def test_over_long_pairs_go_as_a_whole(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    lengths = [int(length) for length in data(tokenizer, tmp_path).rows("train").__getitems__([0, 1, 2, 3])[  # type: ignore[literal-required]
        "rejected_attention_mask"].sum(1)]  # fmt: skip
    longest = max(lengths)
    with pytest.raises(ValueError, match=r"line \d: the row has \d+ tokens, but max_length is"):
        data(tokenizer, tmp_path, max_length=longest - 1)
    kept: Any = data(tokenizer, tmp_path, max_length=longest - 1, over_long=DropRow()).rows("train")
    assert 0 < len(kept) < 4
    chosen = texts(tokenizer, kept.__getitems__(list(range(len(kept)))), "")
    assert RECORDS[lengths.index(longest)]["chosen"] not in chosen


def test_both_rows_of_a_pair_are_cut_alike(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest turns go from both, as many as the longer one needs; the ends of answers go from each."""
    chat = [USER, said("a boat"), {"role": "user", "content": "up"}]
    (tmp_path / "long").mkdir()
    record = {"prompt": chat, "chosen": "red boat", "rejected": "red boat on the wide river"}
    pair = source(tmp_path / "long", [record])

    def made(max_length: int, policy: Any) -> tuple[list[int], list[str], list[str]]:
        few = data(tokenizer, tmp_path, max_length=max_length, over_long=policy, val_source=pair)
        batch: Any = few.rows("val").__getitems__([0])
        lengths = [int(batch[f"{prefix}attention_mask"].sum()) for prefix in ("", "rejected_")]
        answers = [texts(tokenizer, batch, prefix)[0] for prefix in ("", "rejected_")]
        return lengths, answers, [tokenizer.decode(batch[f"{p}tokens"][0].tolist()) for p in ("", "rejected_")]

    (shorter, longer), answers, rows = made(200, DropRow())
    assert all("a boat" in row for row in rows)
    caplog.clear()
    lengths, same, cut = made(longer - 1, CutTurns())
    assert same == answers
    assert not any("a boat" in row for row in cut)
    assert lengths[1] - lengths[0] == longer - shorter
    assert re.search(r"\d of \d pairs have more than .* without their oldest turns", caplog.text)
    lengths, first, _ = made(shorter, CutRight())
    assert lengths == [shorter, shorter]
    assert first[0] == answers[0]
    assert answers[1].startswith(first[1])
    with pytest.raises(ValueError, match="no document fell to the val data"):
        made(shorter - 2, CutRight())  # both begin with "red", and nothing else is left of either


def test_canvases_are_made_of_the_chosen_answers(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    test_source = source(tmp_path / "test", RECORDS[:1])
    for packing in (None, FirstFitDecreasing()):
        made = data(tokenizer, tmp_path, packing=packing, test_source=test_source)
        (canvas,) = list(made.predict_dataloader())
        assert int((canvas["tokens"] == made.mask_token_id).sum()) == len(tokenizer.encode("red")) + 1


def test_equal_answers_are_told(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "equal.jsonl"
    equal = {"prompt": "a boat", "chosen": "red", "rejected": "red"}
    path.write_text("\n".join(json.dumps(record) for record in [RECORDS[0], equal, equal]), encoding="utf-8")
    PreferenceDataModule(
        PreferencePairs(JsonLines(str(path))), tokenizer, 40, 1, val_fraction=0.0, cache_folder=str(tmp_path / "cache")
    ).prepare_data()
    assert "2 of 3 pairs have two equal answers, the first one at" in caplog.text
    assert "equal.jsonl, line 2" in caplog.text
