"""The folder of a released checkpoint: which of its files go when a new checkpoint takes its place."""

import re
from collections.abc import Callable
from pathlib import Path

from llada.checkpoints.released.shards import INDEX
from llada.files.atomic import replace_folder
from llada.files.json_object import read_object

WEIGHTS_FILE = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
TOKENIZER_FILES = {
    "added_tokens.json",
    "additional_chat_templates",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}


def write_folder(folder: Path, build: Callable[[Path], None], *, tokenizer: bool) -> None:
    """Make or replace a checkpoint's folder as a whole, see `llada.files.atomic.replace_folder`.

    Files that a checkpoint doesn't consist of, such as notes and adapters, are kept.

    Args:
        folder: to be made.
        build: fills a temporary folder.
        tokenizer: whether ``build`` writes a tokenizer, which takes the place of the old one; else that one is kept.

    Raises:
        ValueError: if ``folder`` is a file, or the working directory is in it.
    """
    replace_folder(folder, build, lambda old: _outdated(old) | (TOKENIZER_FILES if tokenizer else set()))


def _outdated(folder: Path) -> set[str]:
    """Names of old files that the new checkpoint takes the place of, whether or not it has files of these names."""
    names = {"config.json", INDEX, *(path.name for path in folder.iterdir() if WEIGHTS_FILE.fullmatch(path.name))}
    try:
        listed = read_object(folder / INDEX)["weight_map"].values()
        return names | {name for name in listed if isinstance(name, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return names  # there is no index, or it is damaged
