"""How much a command may be asked for, looked at before any memory is taken.

The model's own limit counts first. Behind it stands one of the command line's, against a slip of the keyboard: a number
with three zeros too many would take all memory, or run for weeks.
"""

from collections.abc import Iterable

from llada.text import TextModel
from llada.text.gaps import GAP

MAX_TOKENS = 1 << 24
"""Tokens that may be written at one go, and rows that may be scored: 16.8 million."""


def check_length(text: TextModel, option: str, num_tokens: int) -> None:
    """Refuse a text that is longer than a row of the model.

    Args:
        text: the model.
        option: what asks for it, such as "num_new_tokens".
        num_tokens: how many.

    Raises:
        ValueError: if they are too many.
    """
    longest = text.max_length
    if longest is not None and num_tokens > longest:
        raise ValueError(
            f"--{option} asks for {num_tokens} tokens, but a row of this model has at most max_length={longest}; "
            "ask for fewer"
        )


def check_total(what: str, total: int, option: str, limit: int) -> None:
    """Refuse more than a command takes on at one go.

    Args:
        what: is asked for, such as "2 samples of 100 tokens".
        total: how many that makes.
        option: the one that holds the limit, such as "max_tokens".
        limit: how many may be asked for.

    Raises:
        ValueError: if it is more.
    """
    if total > limit:
        raise ValueError(f"{what} make {total}, more than {option}={limit}; ask for fewer, or say --{option} {total}")


def gap_tokens(templates: Iterable[str]) -> int:
    """Tokens in the gaps of the template with the most of them; see `llada.text.gaps`.

    Args:
        templates: texts with gaps such as ``[MASK:4]``.

    Raises:
        ValueError: if a gap's number has more digits than any computer has tokens.
    """
    largest = 0
    for template in templates:
        sizes = [gap[1] or "1" for gap in GAP.finditer(template)]
        long = next((size for size in sizes if len(size) > 18), None)
        if long is not None:
            raise ValueError(f"a gap of {long[:18]}... tokens can't be filled; write a smaller number behind MASK")
        largest = max(largest, sum(map(int, sizes)))
    return largest
