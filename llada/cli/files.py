"""Text files that are named on the command line."""

from pathlib import Path


def read_text(path: str) -> str:
    """The content of a text file.

    Args:
        path: name of the file, which is in UTF-8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no text, or isn't UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}; convert it to UTF-8") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without empty ones; exceptions as in `read_text`."""
    return [line for line in read_text(path).splitlines() if line.strip()]
