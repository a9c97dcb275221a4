"""Trained SentencePiece models, of the kind that loses no text and whose special tokens nobody can write by hand.

SentencePiece writes a space as U+2581, and so can't tell the two apart in text; here U+2581 itself is spelt in bytes.

Reference: Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer", arXiv 1808.06226.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from typing_extensions import override

from llada.data.tokenizers.special_tokens import OWN_FILE
from llada.data.tokenizers.tokenizer import Tokenizer, check_characters
from llada.files.atomic import write_bytes
from llada.files.json_object import read_object
from llada.files.pointer import check_there

MODEL_NAME = "tokenizer.model"
MASK, EOT = "<mask>", "<|eot_id|>"
_SPACE = "\u2581"
_PROBE = "  a\n\n b\t<s>é\U00013000 "


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model.

    Args:
        path: the model file, or the folder with ``tokenizer.model``.
        mask: id of the mask, where the model has no control symbol ``<mask>``: beyond its pieces, or of a piece that no
            text gives. What is in the folder must agree.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a SentencePiece model, changes text, or has no mask. Train one with
            `llada.data.SentencePieceTraining`.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import SentencePieceTokenizer, SentencePieceTraining
        >>> with TemporaryDirectory() as folder:
        ...     trained = SentencePieceTraining(280).train(["to be or not to be"], folder)
        ...     words = SentencePieceTokenizer(folder)  # read again
        >>> words.encode("not to be") == trained.encode("not to be"), words.fingerprint == trained.fingerprint
        (True, True)
        >>> words.special_tokens
        {'<unk>': 0, '<pad>': 1, '<s>': 2, '</s>': 3, '<mask>': 4}
    """

    def __init__(self, path: str | Path, mask: int | None = None) -> None:
        self.path, self.mask = path, mask
        file = Path(path) / MODEL_NAME if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no SentencePiece model {file}")
        self._model = file.read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(self._model)
            pieces = int(self._processor.vocab_size())
            self._bytes = [self._bytes_of(i) for i in range(pieces)]
            self._special = {
                self._processor.id_to_piece(i): i
                for i in range(pieces)
                if self._processor.is_control(i) or self._processor.is_unknown(i)
            }
        except (RuntimeError, UnicodeDecodeError) as error:
            check_there(Path(file))
            raise ValueError(f"{file} is not a SentencePiece model, or is damaged") from error
        stored = read_object(file.parent / OWN_FILE, missing_ok=True).get("roles", {}).get("mask")
        self._mask = self._find_mask(file, {"its piece": self._special.get(MASK), OWN_FILE: stored, "the model": mask})
        self._vocab_size = max(pieces, self._mask + 1)
        self._bytes += [b""] * (self._vocab_size - pieces)
        if self.decode(self._processor.encode(_PROBE)) != _PROBE:
            raise ValueError(
                f"{file} changes text: it needs normalization_rule_name=identity, byte_fallback, and neither "
                "add_dummy_prefix nor remove_extra_whitespaces"
            )
        self._space_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return self._vocab_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model file, and of the mask where it isn't in there."""
        return hashlib.sha256(self._model + self._own).hexdigest()

    @property
    def mask_token_id(self) -> int:
        """Id of ``<mask>``, or the one that was given."""
        return self._mask

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning of a document."""
        return _id_or_none(self._processor.bos_id())

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end of a document."""
        return _id_or_none(self._processor.eos_id())

    @property
    def pad_token_id(self) -> int | None:
        """Id of the padding."""
        return _id_or_none(self._processor.pad_id())

    @property
    def eot_token_id(self) -> int | None:
        """Id of ``<|eot_id|>``, if the model was trained with it."""
        return self._special.get(EOT)

    @override
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            check_characters(text)
        encoded: list[list[int]] = self._processor.encode([text for text in texts if _SPACE not in text], out_type=int)
        plain = iter(encoded)
        return [next(plain) if _SPACE not in text else self._encode_around_spaces(text) for text in texts]

    @override
    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        shown, mask, parts = show_mask.encode(), self.mask_token_id, []
        for index in map(int, ids):
            if not 0 <= index < len(self._bytes):
                raise ValueError(f"token id {index} is outside the vocabulary of {len(self._bytes)}")
            parts.append(shown if index == mask else self._bytes[index])
        return b"".join(parts).decode("utf-8", errors="replace")

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.model`` into a folder, and, in a file of our own, a mask that isn't in there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_bytes(Path(folder) / MODEL_NAME, self._model)
        if self._own:
            write_bytes(Path(folder) / OWN_FILE, self._own)

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask={self.mask!r}"
        return f"{type(self).__name__}({str(self.path)!r}{mask})"

    def _find_mask(self, file: Path, said: dict[str, Any]) -> int:
        """The mask on which all agree who know one; sets what must be saved beside the model file."""
        known = {who: index for who, index in said.items() if index is not None}
        self._own = b""
        if not known:
            raise ValueError(
                f"{file} has no control symbol {MASK!r}: text could forge a mask, or there is none. Give the id of the "
                "model's mask, such as SentencePieceTokenizer(path, mask=32000)"
            )
        if len(set(known.values())) > 1:
            raise ValueError(f"the mask of {file} is " + ", but ".join(f"{i} for {who}" for who, i in known.items()))
        mask = next(iter(known.values()))
        if not isinstance(mask, int) or mask < 0 or (mask < len(self._bytes) and mask not in self._special.values()):
            raise ValueError(f"{file}: {mask} can't be the mask, for it is a piece of text")
        if MASK not in self._special:
            self._own = (json.dumps({"roles": {"mask": mask}}) + "\n").encode()
            if mask >= len(self._bytes):
                self._special[MASK] = mask
        return mask

    def _encode_around_spaces(self, text: str) -> list[int]:
        first, *others = self._processor.encode(text.split(_SPACE), out_type=int)
        return [*first, *(token for part in others for token in (*self._space_ids, *part))]

    def _bytes_of(self, index: int) -> bytes:
        """What a piece stands for: special tokens for nothing, so that only text is decoded."""
        if self._processor.is_control(index) or self._processor.is_unknown(index):
            return b""
        piece = self._processor.id_to_piece(index)
        return bytes([int(piece[3:5], 16)]) if self._processor.is_byte(index) else piece.replace(_SPACE, " ").encode()


def _id_or_none(index: int) -> int | None:
    return index if index >= 0 else None
