"""Which tokenizer lies in a folder."""

from pathlib import Path

from llada.data.tokenizers.json_tokenizer import JSON_NAME, JsonTokenizer
from llada.data.tokenizers.sentencepiece_tokenizer import MODEL_NAME, SentencePieceTokenizer
from llada.data.tokenizers.tokenizer import Tokenizer


def has_tokenizer(path: str | Path) -> bool:
    """Whether a path is a file, or a folder in which `load_tokenizer` would find one."""
    path = Path(path)
    return path.is_file() or (path / JSON_NAME).is_file() or (path / MODEL_NAME).is_file()


def load_tokenizer(path: str | Path, mask: int | None = None) -> Tokenizer:
    """Load the tokenizer of a checkpoint, or the one that `Tokenizer.save` put into a folder.

    Args:
        path: the folder, or the file itself. A folder with both kinds of files is read as ``tokenizer.json``.
        mask: the mask token of the model that it is for. A ``tokenizer.json`` may leave it open; what its files say
            must agree.

    Raises:
        FileNotFoundError: if there is none.
        ImportError: if it needs a package that isn't installed.
        ValueError: if the file is damaged or unsuitable, or has another mask.
    """
    path = Path(path)
    if path.suffix == ".json" or (path / JSON_NAME).is_file():
        return JsonTokenizer(path, mask)
    if has_tokenizer(path):
        tokenizer = SentencePieceTokenizer(path)
        if mask is not None and tokenizer.mask_token_id != mask:
            raise ValueError(f"the mask of {path} is {tokenizer.mask_token_id}, but the model's is {mask}")
        return tokenizer
    raise FileNotFoundError(f"there is no tokenizer in {path}: expected a file {MODEL_NAME} or {JSON_NAME}")
