"""Batches of all kinds are one kind, and padding is never trained on or counted."""

from collections import UserDict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from llada.backbones import BidirectionalTransformer
from llada.data.foreign import as_token_batch
from llada.module import DiffusionLM
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom

TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
REAL = torch.tensor([[True] * 4, [True, True, False, False]])
ANSWER = torch.tensor([[False, True, True, True], [False, True, False, False]])
LABELS = TOKENS.masked_fill(~ANSWER, -100)
EVERY = torch.ones_like(REAL)


class Named(NamedTuple):
    """Columns with names."""

    tokens: Tensor
    maskable: Tensor


@pytest.mark.parametrize(
    ("batch", "maskable", "mask"),
    [
        (TOKENS, EVERY, None),
        ([TOKENS], EVERY, None),
        ((TOKENS,), EVERY, None),
        ({"tokens": TOKENS}, EVERY, None),
        ({"input_ids": TOKENS.int()}, EVERY, None),
        (UserDict({"input_ids": TOKENS}), EVERY, None),
        ({"tokens": TOKENS, "maskable": None, "attention_mask": None}, EVERY, None),
        (Named(TOKENS, ANSWER), ANSWER, None),
        ({"tokens": TOKENS, "maskable": ANSWER.long()}, ANSWER, None),
        ({"tokens": TOKENS, "attention_mask": REAL.long()}, REAL, REAL),
        ({"input_ids": TOKENS, "attention_mask": REAL.to(torch.uint8)}, REAL, REAL),
        ({"tokens": TOKENS, "maskable": EVERY, "attention_mask": REAL}, REAL, REAL),
        ({"input_ids": TOKENS, "labels": LABELS}, ANSWER, None),
        ({"input_ids": TOKENS, "labels": TOKENS, "attention_mask": REAL.int()}, REAL, REAL),
        ({"tokens": TOKENS, "maskable": REAL, "labels": LABELS, "attention_mask": EVERY}, ANSWER, EVERY),
    ],
)
def test_all_kinds_become_one(batch: Any, maskable: Tensor, mask: Tensor | None) -> None:
    rows = as_token_batch(batch)
    assert rows["tokens"].dtype == torch.int64
    assert torch.equal(rows["tokens"], TOKENS)
    assert rows["maskable"].dtype == torch.bool
    assert torch.equal(rows["maskable"], maskable)
    assert ("attention_mask" in rows) == (mask is not None)
    assert mask is None or torch.equal(rows["attention_mask"], mask)
    assert not {"labels", "input_ids"} & set(rows)


def test_further_columns_stay_and_the_batch_is_not_changed() -> None:
    batch = {"input_ids": TOKENS, "labels": LABELS, "advantage": torch.ones(2), "segment_ids": EVERY.int()}
    rows = as_token_batch(batch)
    assert set(batch) == {"input_ids", "labels", "advantage", "segment_ids"}
    assert torch.equal(rows["advantage"], torch.ones(2))  # type: ignore[typeddict-item]
    assert rows["segment_ids"].dtype == torch.int64
    again = as_token_batch(rows)
    assert again.keys() == rows.keys()
    assert all(torch.equal(again[name], rows[name]) for name in rows)  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([TOKENS, ANSWER], "got a list of 2, which don't say which is which"),
        ("text", "got a str"),
        (None, "got a NoneType"),
        ({"text": ["a"], "id": 3}, "got the columns text, id"),
        ({}, "got the columns \\(none\\)"),
        ({"tokens": TOKENS, "input_ids": TOKENS}, "both tokens and input_ids"),
        ({"input_ids": TOKENS.tolist()}, 'input_ids as a list.*set_format\\("torch"\\)'),
        (TOKENS[0], "tokens of shape \\(4,\\)"),
        (TOKENS[:0], "tokens of shape \\(0, 4\\)"),
        (TOKENS.float(), "torch.float32"),
        (EVERY, "torch.bool"),
        (TOKENS.to_sparse(), "a tensor that isn't dense \\(torch.sparse_coo\\); pad or unfold it"),
        ({"tokens": torch.nested.nested_tensor([*TOKENS], layout=torch.jagged)}, "isn't dense \\(nested\\)"),
        ({"tokens": LABELS}, "tokens holds -100, which is no token id"),
        ({"tokens": TOKENS, "maskable": REAL.float()}, "maskable must be bool or integers.*float32"),
        ({"tokens": TOKENS, "maskable": [1, 0]}, "maskable must be a tensor"),
        ({"tokens": TOKENS, "attention_mask": REAL[:, None, None]}, "attention_mask must be.*\\(2, 1, 1, 4\\)"),
        ({"tokens": TOKENS, "attention_mask": 2 * REAL.long()}, "also holds 2; segments of packed rows"),
        ({"tokens": TOKENS, "labels": torch.tensor([0, 1])}, "labels must be"),
        ({"tokens": TOKENS, "labels": TOKENS.roll(1, 1)}, "labels differ from the tokens"),
        ({"tokens": TOKENS, "segment_ids": REAL.float()}, "segment_ids must be"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_token_batch(batch)


def test_what_transformers_tokenizers_give_is_read() -> None:
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": TOKENS, "attention_mask": REAL.long()})
    assert torch.equal(as_token_batch(encoding)["maskable"], REAL)


def test_an_objective_called_by_hand_leaves_padding_alone() -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(12, width=16, num_layers=1, num_heads=2)
    batch = {"tokens": TOKENS, "attention_mask": REAL}
    outputs = [
        NELBO()(backbone, MaskingProcess(11), rows, random=RowRandom.from_seed(0, 2))
        for rows in (batch, {**batch, "maskable": REAL}, {**batch, "maskable": EVERY})
    ]
    assert [output.num_tokens.tolist() for output in outputs] == [[4, 2]] * 3
    assert outputs[0].numerator == outputs[1].numerator == outputs[2].numerator


def run(folder: Path, rows: Any) -> tuple[DiffusionLM, dict[str, float]]:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(12, width=16, num_layers=1, num_heads=2)
    model = DiffusionLM(backbone, MaskingProcess(11), optimizer=partial(torch.optim.AdamW, lr=1e-2))
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, enable_checkpointing=False, default_root_dir=folder,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    data = DataLoader(rows, batch_size=2)
    trainer.fit(model, data)
    return model, trainer.validate(model, data, verbose=False)[0]


def test_every_kind_trains_to_the_same_weights(tmp_path: Path) -> None:
    tokens = TOKENS.repeat(3, 1)
    alike = [
        [{"tokens": row} for row in tokens],
        [{"input_ids": row.int(), "labels": row} for row in tokens],
        TensorDataset(tokens),
        list(tokens),
    ]
    (model, results), *others = [run(tmp_path, rows) for rows in alike]
    for other, other_results in others:
        assert other_results == results
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_padding_is_neither_trained_on_nor_counted(tmp_path: Path) -> None:
    padded = [{"tokens": t, "attention_mask": m} for t, m in zip(TOKENS, REAL, strict=True)]
    other = [{**row, "tokens": row["tokens"].masked_fill(~row["attention_mask"], 9)} for row in padded]
    marked = [{**row, "maskable": row["attention_mask"]} for row in padded]
    (model, results), *others = [run(tmp_path, rows) for rows in (padded, other, marked)]
    for again, other_results in others:
        assert other_results == results
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_batch_that_does_not_fit_ends_the_run_with_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a batch must be a dictionary.*got a list of 2"):
        run(tmp_path, TensorDataset(TOKENS, ANSWER))
