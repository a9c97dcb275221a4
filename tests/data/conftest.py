"""A small tokenizer, trained once."""

import pytest

from llada.data import SentencePieceTokenizer, SentencePieceTraining

CONTROL_SYMBOLS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
STORY = (
    "The little boy went down to the river and saw a boat.\n"
    "The boat was red, and the river was wide.\n\n"
    "His mother called him home; the boy ran up the hill to his mother.\n"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    training = SentencePieceTraining(vocab_size=330, control_symbols=CONTROL_SYMBOLS)
    return training.train([STORY] * 4, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def plain_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    return SentencePieceTraining(vocab_size=320).train([STORY] * 4, tmp_path_factory.mktemp("plain"))
