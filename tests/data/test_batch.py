import pytest
import torch

from llada.data import EosInAnswer, ExcludedPadding, pad_left, pad_right
from llada.data.batch import AnswerRow

LONG = AnswerRow(torch.tensor([10, 11, 12, 13, 14]), 3)
SHORT = AnswerRow(torch.tensor([20, 21]), 1)


def test_padding_goes_to_the_side_that_was_asked_for():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    tokens, real = pad_right(rows, 9)
    assert tokens.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert real.tolist() == [[True] * 3, [True, False, False]]
    tokens, real = pad_left(rows, 9)
    assert tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert real.tolist() == [[True] * 3, [False, False, True]]


def test_eos_after_a_short_answer_belongs_to_it(tokenizer):
    batch = EosInAnswer()([LONG, SHORT], tokenizer)
    assert batch["tokens"].tolist() == [[10, 11, 12, 13, 14], [20, 21, 3, 3, 3]]
    assert batch["maskable"].tolist() == [[False, False, False, True, True], [False, True, True, True, True]]
    assert "attention_mask" not in batch


def test_excluded_padding_is_no_part_of_the_row(tokenizer):
    batch = ExcludedPadding()([LONG, SHORT], tokenizer)
    assert batch["tokens"].tolist() == [[10, 11, 12, 13, 14], [20, 21, 1, 1, 1]]
    assert batch["maskable"].tolist() == [[False, False, False, True, True], [False, True, False, False, False]]
    assert batch["attention_mask"].tolist() == [[True] * 5, [True, True, False, False, False]]


def test_excluded_padding_on_the_left_moves_the_answer(tokenizer):
    batch = ExcludedPadding(left=True)([LONG, SHORT], tokenizer)
    assert batch["tokens"].tolist() == [[10, 11, 12, 13, 14], [1, 1, 1, 20, 21]]
    assert batch["maskable"].tolist() == [[False, False, False, True, True], [False, False, False, False, True]]
    assert batch["attention_mask"].tolist() == [[True] * 5, [False, False, False, True, True]]


def test_a_prompt_may_be_empty(tokenizer):
    row = AnswerRow(torch.tensor([7, 8]), 0)
    for padding in (EosInAnswer(), ExcludedPadding(), ExcludedPadding(left=True)):
        assert padding([row], tokenizer)["maskable"].tolist() == [[True, True]]


def test_a_tokenizer_without_the_token_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "eos_token_id", None)
    with pytest.raises(ValueError, match="no special token 'eos'"):
        EosInAnswer()([SHORT], tokenizer)
