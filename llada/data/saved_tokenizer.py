"""Which tokenizer lies in a folder."""

from pathlib import Path

from llada.data.sentencepiece_tokenizer import MODEL_NAME, SentencePieceTokenizer
from llada.data.tokenizer import Tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load the tokenizer that `Tokenizer.save` put into a folder.

    Args:
        path: the folder, or the file itself.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged or unsuitable.
    """
    path = Path(path)
    if path.is_file() or (path / MODEL_NAME).is_file():
        return SentencePieceTokenizer(path)
    raise FileNotFoundError(f"there is no tokenizer in {path}: expected a file {MODEL_NAME}")
