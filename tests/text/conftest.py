"""Tokenizers that differ in the special tokens they have."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from typing_extensions import override

from llada.data import Tokenizer, load_tokenizer
from tests.tiny_checkpoint import MASK, write_tokenizer


class Lacking(Tokenizer):
    """A tokenizer without some of its special tokens."""

    def __init__(self, whole: Tokenizer, lacks: Sequence[str]) -> None:
        self.whole, self.lacks = whole, lacks
        self.chat_template = getattr(whole, "chat_template", None)

    def _special(self, name: str) -> int | None:
        found: int | None = None if name in self.lacks else getattr(self.whole, f"{name}_token_id")
        return found

    @property
    @override
    def vocab_size(self) -> int:
        return self.whole.vocab_size

    @property
    @override
    def fingerprint(self) -> str:
        return self.whole.fingerprint

    @property
    @override
    def mask_token_id(self) -> int:
        return self.whole.mask_token_id

    @property
    @override
    def bos_token_id(self) -> int | None:
        return self._special("bos")

    @property
    @override
    def eos_token_id(self) -> int | None:
        return self._special("eos")

    @property
    @override
    def pad_token_id(self) -> int | None:
        return self._special("pad")

    @property
    @override
    def eot_token_id(self) -> int | None:
        return self._special("eot")

    @property
    @override
    def special_tokens(self) -> dict[str, int]:
        return self.whole.special_tokens

    @override
    def encode(self, text: str) -> list[int]:
        return self.whole.encode(text)

    @override
    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        return self.whole.decode(ids, show_mask)

    @override
    def save(self, folder: str | Path) -> None:
        self.whole.save(folder)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pytest.importorskip("tokenizers")
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), mask=MASK)
