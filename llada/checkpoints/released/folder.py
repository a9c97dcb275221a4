"""The folder of a checkpoint: written beside the old one, and put in its place when it is complete."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from llada.checkpoints.released.shards import INDEX

WEIGHTS_FILE = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
TOKENIZER_FILES = {
    "added_tokens.json",
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
    """Make or replace a checkpoint's folder as a whole.

    Whatever interrupts this, the old folder is there with all it held; should the machine itself stop in the instant
    between two renames, it lies beside under the name ``.<folder>.old.*``. Files in it that this doesn't write, such as
    notes, adapters, or the tokenizer if none is given, are kept.

    Args:
        folder: to be made.
        build: fills a temporary folder beside it, which then gets the name.
        tokenizer: whether ``build`` writes a tokenizer, which takes the place of the old one.

    Raises:
        ValueError: if ``folder`` is a file, or the working directory is in it.
    """
    folder = folder.resolve()  # what a link points to is replaced, not the link
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    if folder.is_dir() and Path.cwd().is_relative_to(folder):
        raise ValueError(f"{folder} holds the working directory, which can't be replaced; name a folder inside it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        build(work)
        if folder.is_dir():
            _keep(folder, work, _replaced(folder) | (TOKENIZER_FILES if tokenizer else set()))
        for path in work.iterdir():
            _flush(path)
        work.chmod(0o755)
        _swap(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replaced(folder: Path) -> set[str]:
    """Names of old files that the new checkpoint takes the place of, whether or not it has files of these names."""
    names = {"config.json", INDEX, *(path.name for path in folder.iterdir() if WEIGHTS_FILE.fullmatch(path.name))}
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return names | {name for name in listed if isinstance(name, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return names  # there is no index, or it was damaged


def _keep(folder: Path, work: Path, replaced: set[str]) -> None:
    for path in folder.iterdir():
        kept = work / path.name
        if path.name in replaced or kept.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, kept, symlinks=True, copy_function=_link)
        else:
            _link(path, kept)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(path: Path) -> None:
    """Make sure that a file is on the disk before it counts as written."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(work: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(work, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / folder.name
    try:
        os.replace(folder, old)
        os.replace(work, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
