"""Reading JSON objects from files that somebody else may have written or damaged.

One reader for configurations, indices, tokenizers and JSON Lines: whatever is wrong, a ValueError names the place and
the reason, and an object that names an entry twice is refused, since readers disagree about which one counts.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from llada.files.pointer import check_there

MAX_BYTES = 1 << 28
"""Largest file that is read: 256 MiB, ten times what the largest known tokenizer takes."""


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that takes two; what is whole is common


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
    check_there(path)
    return parse_object(path.read_bytes(), path)


def parse_object(text: str | bytes, where: str | Path) -> dict[str, Any]:
    """The JSON object that a text spells.

    Args:
        text: the whole text, as UTF-8 if it is bytes.
        where: file, or file and line, that messages name.

    Raises:
        ValueError: if the text isn't JSON, isn't an object, names an entry of an object twice, or holds a number or a
            character that can't be kept.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(decoded.removeprefix("\ufeff"), object_pairs_hook=_without_repeats, parse_float=_finite)
        if _HALF.search(decoded):
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno}" if error.lineno > 1 else ""
        raise ValueError(f"{where}: malformed JSON at column {error.colno}{line}: {error.msg}") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise ValueError(f"{where}: malformed JSON: {half} is half a character") from error
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
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is there twice")
    return content


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number
