"""Which tokenizer lies in a folder."""

from pathlib import Path

from llada.data.tokenizers.byte_level_bpe import MERGES, VOCABULARY, has_parts
from llada.data.tokenizers.json_tokenizer import JSON_NAME, JsonTokenizer
from llada.data.tokenizers.sentencepiece_tokenizer import MODEL_NAME, SentencePieceTokenizer
from llada.data.tokenizers.tokenizer import Tokenizer


def has_tokenizer(path: str | Path) -> bool:
    """Whether a path is a file, or a folder in which `load_tokenizer` would find one."""
    path = Path(path)
    return path.is_file() or (path / JSON_NAME).is_file() or (path / MODEL_NAME).is_file() or has_parts(path)


def load_tokenizer(path: str | Path, mask: int | None = None) -> Tokenizer:
    """Load the tokenizer of a checkpoint, or the one that `Tokenizer.save` put into a folder.

    Args:
        path: the folder, or the file itself. Of several kinds of files in a folder, ``tokenizer.json`` comes first,
            then ``tokenizer.model``, then ``vocab.json`` with ``merges.txt``.
        mask: the mask token of the model that it is for, which the files may leave open; what they say must agree.

    Raises:
        FileNotFoundError: if there is none.
        ImportError: if it needs a package that isn't installed.
        ValueError: if the file is damaged or unsuitable, or has another mask.
    """
    path = Path(path)
    if path.suffix == ".json" or (path / JSON_NAME).is_file():
        return JsonTokenizer(path, mask)
    if path.is_file() or (path / MODEL_NAME).is_file():
        return SentencePieceTokenizer(path, mask)
    if has_parts(path):
        return JsonTokenizer(path, mask)
    raise FileNotFoundError(
        f"there is no tokenizer in {path}: expected a file {MODEL_NAME} or {JSON_NAME}, or {VOCABULARY} with {MERGES}"
    )
