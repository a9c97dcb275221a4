import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llada.data import AnswerRows, Canvases, EosInAnswer, TokenFile, TokenFileWriter, TokenRows
from tests.helpers import lines_run


def write(path, documents):
    with TokenFileWriter(path, 500, "f") as writer:
        for document in documents:
            writer.add(document)
    return TokenFile(path)


documents_strategy = st.lists(st.lists(st.integers(0, 499), max_size=9), min_size=1, max_size=8).filter(
    lambda documents: sum(map(len, documents)) >= 4
)


@given(documents=documents_strategy, max_length=st.integers(1, 4), data=st.data())
def test_rows_are_the_plain_concatenation(tmp_path_factory, documents, max_length, data):
    rows = TokenRows(write(tmp_path_factory.mktemp("p") / "a.tokens", documents), max_length, separate_documents=True)
    stream = [token for document in documents for token in document]
    owner = [number for number, document in enumerate(documents) for _ in document]
    assert len(rows) == len(stream) // max_length
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    batch = rows.__getitems__(chosen)
    for row, tokens, segments in zip(chosen, batch["tokens"].tolist(), batch["segment_ids"].tolist(), strict=True):
        place = slice(row * max_length, (row + 1) * max_length)
        assert tokens == stream[place]
        # Segment ids count the documents of a row that have tokens in it.
        assert segments == [sorted(set(owner[place])).index(number) for number in owner[place]]
    assert batch["tokens"].dtype == batch["segment_ids"].dtype == torch.int64
    assert batch["maskable"].dtype == torch.bool
    assert bool(batch["maskable"].all())


def test_documents_are_together_unless_separated(tmp_path):
    rows = TokenRows(write(tmp_path / "a.tokens", [[1, 2], [3, 4]]), 4)
    assert set(rows.__getitems__([0])) == {"tokens", "maskable"}
    assert rows[0]["tokens"].tolist() == [1, 2, 3, 4]


def test_a_filling_row_has_nothing_maskable(tmp_path):
    rows = TokenRows(write(tmp_path / "a.tokens", [[1, 2, 3, 4, 5]]), 2, separate_documents=True)
    batch = rows.__getitems__([1, -1])
    assert batch["tokens"].tolist()[0] == [3, 4]
    assert batch["maskable"].tolist() == [[True, True], [False, False]]
    assert batch["segment_ids"].shape == (2, 2)


def test_batches_own_their_memory(tmp_path):
    rows = TokenRows(write(tmp_path / "a.tokens", [[1, 2, 3, 4]]), 2)
    rows.__getitems__([0])["tokens"].zero_()
    assert rows[0]["tokens"].tolist() == [1, 2]


def test_text_shorter_than_a_row_is_refused(tmp_path):
    file = write(tmp_path / "a.tokens", [[1, 2, 3]])
    with pytest.raises(ValueError, match=r"a\.tokens has 3 tokens, less than one row of 4"):
        TokenRows(file, 4)
    with pytest.raises(ValueError, match="max_length must be 1 or more; got 0"):
        TokenRows(file, 0)


def test_a_gather_touches_no_token_in_python(tmp_path):
    lines = []
    for length in (16, 1024):  # as many rows of either length
        file = write(tmp_path / f"{length}.tokens", [np.arange(length * 64) % 500])
        rows = TokenRows(file, length, separate_documents=True)
        lines.append(lines_run(lambda rows=rows: rows.__getitems__(list(range(64)))))
    assert lines[0] == lines[1]


def test_prompts_and_answers_take_turns(tmp_path, tokenizer):
    rows = AnswerRows(
        write(tmp_path / "a.tokens", [[10, 11], [12, 13, 14], [20, 21, 22], [23]]), EosInAnswer(), tokenizer
    )
    assert len(rows) == 2
    batch = rows.__getitems__([1, 0, -1])
    assert batch["tokens"].tolist() == [[20, 21, 22, 23, 3], [10, 11, 12, 13, 14], [20, 21, 22, 23, 3]]
    assert batch["maskable"].tolist() == [[False] * 3 + [True] * 2, [False] * 2 + [True] * 3, [False] * 5]
    assert rows[0]["tokens"].tolist() == [10, 11, 12, 13, 14]


def test_an_odd_number_of_documents_is_no_dialogue(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="has 3 documents; expected prompts and answers in turn"):
        AnswerRows(write(tmp_path / "a.tokens", [[1], [2], [3]]), EosInAnswer(), tokenizer)


def test_canvases_have_masks_where_something_is_to_be_written(tmp_path, tokenizer):
    text = Canvases(TokenRows(write(tmp_path / "a.tokens", [[10, 11, 12, 13]]), 4), mask_token_id=4, visible=2)
    assert text.__getitems__([0])["tokens"].tolist() == [[10, 11, 4, 4]]
    rows = AnswerRows(write(tmp_path / "b.tokens", [[10], [11, 12], [13], [14]]), EosInAnswer(), tokenizer)
    answers = Canvases(rows, mask_token_id=4)
    assert len(answers) == 2
    assert answers.__getitems__([0, 1])["tokens"].tolist() == [[10, 4, 4], [13, 4, 4]]
