"""Errors that name the file which they are about, whoever found them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: str | Path, *, hidden: str | Path | None = None) -> Iterator[None]:
    """Let every ``ValueError`` of a block name a file.

    Args:
        path: of the file.
        hidden: folder that nobody knows, such as a temporary one, which is left out of the message.

    Raises:
        ValueError: as the block does, with the file in front where its message doesn't name it. Subclasses pass as
            they are.
    """
    try:
        yield
    except ValueError as error:
        told = str(error) if hidden is None else str(error).replace(f"{hidden}/", "")
        if type(error) is not ValueError and not isinstance(error, UnicodeError):
            raise
        if Path(path).name in told:
            raise
        raise ValueError(f"{path}: {told}") from error


def with_inputs(text: str, words: Sequence[str]) -> str:
    """A command's error, with the files of its command line at the end if it names neither one nor an option.

    Args:
        text: the error.
        words: of the command line.
    """
    options = [word[2:].partition("=")[::2] for word in words if word.startswith("--")]
    files = any(option == "config" for option, _ in options)  # which may say otherwise than the command line
    for option, given_value in options:
        own = not files or f"got {given_value!r}" in text
        if option != "config" and (f"--{option}" in text or ("." in option and option in text and own)):
            return text
    pairs = zip(["", *words], words, strict=False)
    given = [value for before, word in pairs if (value := _value(before, word))]
    inputs = list(dict.fromkeys(value for value in given if _is_there(value)))
    told = (value for value in given if value in inputs or len(value) > 3)
    if not inputs or any(Path(value).name in text for value in told):
        return text
    if any("/" in word and _is_there(word.strip(",;:()'")) for word in text.split()):  # it names another file
        return text
    return f"{text} (read: {', '.join(inputs)})"


def _value(before: str, word: str) -> str | None:
    """What a word of a command line may name as an input."""
    option, equals, value = word.partition("=")
    if word.startswith("--"):
        return value if equals and not _is_output(option) else None
    return None if before.startswith("--") and "=" not in before and _is_output(before) else word


def _is_output(option: str) -> bool:
    return option.startswith(("--out", "--cache", "--logger", "--trainer.default_root_dir"))


def _is_there(value: str) -> bool:
    try:
        return value not in ("", ".", "..") and Path(value).exists()
    except (OSError, ValueError):  # too long for a name, or none at all
        return False
