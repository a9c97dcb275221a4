"""Whether texts of unknown length can end, and the longest fits into the model: asked before anything is decoded."""

from typing import Any

from llada.samplers.stopping import TokenIds, token_ids


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


def check_ending(stop_token_ids: TokenIds, max_new_tokens: int) -> None:
    """Refuse texts that can't end.

    Args:
        stop_token_ids: tokens that end a row.
        max_new_tokens: tokens after which it ends in any case.

    Raises:
        ValueError: if there are none of either.
    """
    if not token_ids(stop_token_ids):
        raise ValueError("a text of unknown length needs a token that ends it; give stop_token_ids, such as EOS")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more; got {max_new_tokens}")
