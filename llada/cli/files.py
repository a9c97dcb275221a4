"""Files that are named on the command line: text, and what to say of weights that don't fit."""

import re
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


def in_short(error: RuntimeError, path: str) -> str:
    """PyTorch's account of a state that doesn't fit, in three lines: how many weights of each kind, and the first.

    Args:
        error: what ``load_state_dict`` raised.
        path: file of the state.
    """
    lines = [f"{path} holds the weights of another model than its parts describe:"]
    for kind, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: (.*)"),
        ("unknown", r"Unexpected key\(s\) in state_dict: (.*)"),
    ):
        names = [name for found in re.findall(pattern, str(error)) for name in re.findall(r'"([^"]+)"', found)]
        if names:
            lines.append(f"{len(names)} {kind}, the first {names[0]}")
    shaped = re.findall(r"size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])", str(error))
    if shaped:
        name, stored, asked = shaped[0]
        lines.append(f"{len(shaped)} of another shape, the first {name}: {stored} instead of {asked}")
    return "\n".join([lines[0], "; ".join(lines[1:])])
