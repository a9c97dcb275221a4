"""Whether the longest row that may come about fits into the model, asked before anything is decoded."""

from typing import Any


def check_room(model: Any, longest: int, max_new_tokens: int) -> None:
    """Refuse rows that the model can't take.

    Args:
        model: whatever is decoded; one without ``max_length`` takes any row.
        longest: columns of the longest canvas.
        max_new_tokens: tokens of it that are new.

    Raises:
        ValueError: if they are too many.
    """
    limit = getattr(model, "max_length", None)
    if limit is not None and longest > limit:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} makes rows of up to {longest} tokens, and the model takes {limit}; ask "
            f"for at most {max_new_tokens - longest + limit}"
        )
