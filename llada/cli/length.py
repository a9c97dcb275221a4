"""``--max_new_tokens``: an answer that is as long as it needs to be."""

from dataclasses import replace

from llada.samplers import UntilStop
from llada.text import TextModel


def most_tokens(num_new_tokens: int, max_new_tokens: int | None) -> int:
    """The longest that an answer can become.

    Args:
        num_new_tokens: masks that a canvas ends with at first.
        max_new_tokens: what the user allows; None for no more than those.

    Raises:
        ValueError: if it allows fewer.
    """
    if max_new_tokens is None:
        return num_new_tokens
    if max_new_tokens < num_new_tokens:
        raise ValueError(
            f"--max_new_tokens {max_new_tokens} is less than the num_new_tokens={num_new_tokens} that an answer begins "
            "with; ask for more, or begin with fewer"
        )
    return max_new_tokens


def growing(text: TextModel, max_new_tokens: int | None) -> TextModel:
    """The model with a sampler that appends masks until the text has ended, see `llada.samplers.UntilStop`.

    Args:
        text: model and tokenizer, with the sampler that is to be used.
        max_new_tokens: most tokens of an answer; None to leave the sampler as it is.

    Raises:
        ValueError: if nothing ends a text, or the sampler can't follow a canvas that grows.
    """
    if max_new_tokens is None:
        return text
    first = text.tokenizer.eos_token_id  # what a row is filled with
    stops = sorted(text.stop_token_ids, key=lambda token: (token != first, token))
    if not stops:
        raise ValueError(
            "--max_new_tokens lets a text go on until it ends, but the tokenizer has no token that ends one; say how "
            "long it is to be by --num_new_tokens alone"
        )
    try:
        return replace(text, sampler=UntilStop(text.decoding, tuple(stops), max_new_tokens))
    except ValueError as error:
        raise ValueError(
            f"--max_new_tokens: {error}; at the command line: --sampler low_confidence --sampler.block_length 32"
        ) from error
