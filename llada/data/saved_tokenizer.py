"""Which tokenizer lies in a folder."""

from pathlib import Path

from llada.data.json_tokenizer import JSON_NAME, JsonTokenizer
from llada.data.sentencepiece_tokenizer import MODEL_NAME, SentencePieceTokenizer
from llada.data.tokenizer import Tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint, or the one that `Tokenizer.save` put into a folder.

    Args:
        path: the folder, or the file itself. A folder with both kinds of files is read as ``tokenizer.json``.

    Raises:
        FileNotFoundError: if there is none.
        ImportError: if it needs a package that isn't installed.
        ValueError: if the file is damaged or unsuitable.
    """
    path = Path(path)
    if path.suffix == ".json" or (path / JSON_NAME).is_file():
        return JsonTokenizer(path)
    if path.is_file() or (path / MODEL_NAME).is_file():
        return SentencePieceTokenizer(path)
    raise FileNotFoundError(f"there is no tokenizer in {path}: expected a file {MODEL_NAME} or {JSON_NAME}")
