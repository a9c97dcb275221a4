"""Reading JSON objects from files that somebody else may have written or damaged.

One reader for configurations, indices, tokenizers and JSON Lines: whatever is wrong, a ValueError names the place and
the reason, and an object that names an entry twice is refused, since readers disagree about which one counts.
"""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 28
"""Largest file that is read: 256 MiB, ten times what the largest known tokenizer takes."""


def read_object(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: JSON file in UTF-8.
        missing_ok: whether a file that isn't there counts as an empty object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else than one JSON object, or is too large to be one of ours.
    """
    if not path.is_file():
        if missing_ok:
            return {}
        raise FileNotFoundError(f"there is no file {path}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} has {size} bytes, but JSON files of at most {MAX_BYTES} are read; is it another file?"
        )
    return parse_object(path.read_bytes(), path)


def parse_object(text: str | bytes, where: str | Path) -> dict[str, Any]:
    """The JSON object that a text spells.

    Args:
        text: the whole text, as UTF-8 if it is bytes.
        where: file, or file and line, that messages name.

    Raises:
        ValueError: if the text isn't JSON, isn't an object, or names an entry of an object twice.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(decoded, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno}" if error.lineno > 1 else ""
        raise ValueError(f"{where}: malformed JSON at column {error.colno}{line}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: malformed JSON: it isn't UTF-8 text ({error.reason})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: malformed JSON: it is nested too deeply") from error
    except ValueError as error:  # an entry is there twice, or a number has too many digits
        raise ValueError(f"{where}: malformed JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{where}: expected a JSON object such as {{"name": ...}}; got {type(content).__name__}')
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content
