"""What the library asks of a tokenizer: exact round trips, special tokens that text can't forge, and a fingerprint.

Text is data. Whatever it says, ``encode`` never returns a special token, so "<mask>" or "<|eot_id|>" in a document or
in a user's message stays the characters it is. Special tokens are placed by id, by those who build rows and prompts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("mask", "bos", "eos", "pad", "eot")
"""Special tokens that the library knows by what they do; eot ends a turn of a conversation."""


class Tokenizer(ABC):
    """Text to token ids and back.

    A subclass has `encode` or `encode_batch`, whichever comes easier, and fills ``_special``.
    """

    _special: dict[str, int]
    """Name and id of every token that text can't produce."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.encode is Tokenizer.encode and cls.encode_batch is Tokenizer.encode_batch:
            raise TypeError(f"the tokenizer {cls.__name__} needs a method encode or encode_batch")

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, the special ones included: the size of the embedding."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file: two tokenizers with the same fingerprint give the same ids."""

    @property
    @abstractmethod
    def mask_token_id(self) -> int:
        """The mask token of the diffusion."""

    @property
    @abstractmethod
    def bos_token_id(self) -> int | None:
        """Begins a document; None if there is none."""

    @property
    @abstractmethod
    def eos_token_id(self) -> int | None:
        """Ends a document; None if there is none."""

    @property
    @abstractmethod
    def pad_token_id(self) -> int | None:
        """Fills rows; None if there is none."""

    @property
    @abstractmethod
    def eot_token_id(self) -> int | None:
        """Ends a turn of a conversation; None if there is none."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name and id of every token that text can't produce."""
        return dict(self._special)

    @property
    def adds_bos(self) -> bool:
        """Whether a text that begins a row begins with BOS, as far as this tokenizer is concerned."""
        return self.bos_token_id is not None

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer, as far as this tokenizer knows: the end of a document, and that of a turn."""
        return frozenset(token for token in (self.eos_token_id, self.eot_token_id) if token is not None)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without beginning or end tokens, and never a special one.

        Raises:
            ValueError: if the text holds lone surrogates, which are no characters.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of several texts at once, for tokenizers that are faster that way."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        """The text of token ids; ``decode(encode(text)) == text`` for every text.

        Args:
            ids: token ids; a 1-d tensor or array will do.
            show_mask: what stands for a mask token, such as "░". Other special tokens give nothing.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write what `llada.data.load_tokenizer` needs into a folder, which is made if it isn't there."""

    def encode_pieces(self, pieces: Sequence[str | int]) -> list[int]:
        """Token ids of a row that is given as texts, and ids of special tokens between them.

        Args:
            pieces: no two texts in a row.
        """
        texts = iter(self.encode_batch([piece for piece in pieces if isinstance(piece, str)]))
        return [token for piece in pieces for token in ([piece] if isinstance(piece, int) else next(texts))]

    def has_special(self, name: str) -> bool:
        """Whether there is a special token of that role or name; see `special_id`."""
        return (getattr(self, f"{name}_token_id") if name in ROLES else self.special_tokens.get(name)) is not None

    def special_id(self, name: str) -> int:
        """The id of a special token that a caller can't do without.

        Args:
            name: what it does ("mask", "bos", "eos", "pad" or "eot") or its name, such as "<|start_header_id|>".

        Raises:
            ValueError: if this tokenizer has none.
        """
        found: int | None = getattr(self, f"{name}_token_id") if name in ROLES else self.special_tokens.get(name)
        if found is None:
            raise ValueError(f"this tokenizer has no special token {name!r}; it has {', '.join(self.special_tokens)}")
        return found


@dataclass(frozen=True)
class TokenizerTraining(ABC):
    """How to make a tokenizer from the training text, and what is known of it before that.

    Args:
        vocab_size: the `Tokenizer.vocab_size` that the tokenizer will have.
    """

    vocab_size: int

    @property
    @abstractmethod
    def mask_token_id(self) -> int:
        """The mask token that the tokenizer will have, so that a model can be built before the tokenizer."""

    @abstractmethod
    def train(self, texts: Iterable[str], folder: str | Path) -> Tokenizer:
        """Train a tokenizer and save it in a folder.

        Args:
            texts: documents.
            folder: see `Tokenizer.save`.

        Raises:
            ValueError: if the texts are empty or too few for the vocabulary.
        """


def check_fingerprint(tokenizer: Tokenizer, fingerprint: str, where: str | Path) -> None:
    """Refuse a tokenizer that isn't the one with which something was made.

    Args:
        tokenizer: the one at hand.
        fingerprint: of the one it was made with.
        where: what was made, for the message.

    Raises:
        ValueError: if they differ.
    """
    if tokenizer.fingerprint != fingerprint:
        raise ValueError(
            f"{where} was made with another tokenizer (fingerprint {fingerprint[:12]}..., this one has "
            f"{tokenizer.fingerprint[:12]}...); use the tokenizer that was saved with it"
        )


def check_characters(text: str) -> None:
    """Refuse half a character: UTF-8 has no bytes for a lone surrogate, so no tokenizer has tokens for it.

    Raises:
        ValueError: naming the surrogate, or the byte that it stands for, and its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found, where = ord(text[error.start]), f"at character {error.start}"
        if 0xDC80 <= found <= 0xDCFF:  # as Python holds a byte that it couldn't decode, such as of a command line
            raise ValueError(
                f"text isn't UTF-8: it holds the byte 0x{found - 0xDC00:02X} {where}; convert it, as by "
                "iconv -f LATIN1 -t UTF-8"
            ) from error
        raise ValueError(
            f"text holds the lone surrogate U+{found:04X} {where}, which is no character; decode it as UTF-16, or drop "
            "it"
        ) from error
