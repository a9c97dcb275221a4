"""``--max_new_tokens`` and ``--length``: an answer that is as long as it needs to be."""

from dataclasses import replace
from typing import Any, cast

from llada.samplers import InsertionSampler, LengthPolicy, ResizingSampler, UntilStop
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


def growing(text: TextModel, max_new_tokens: int | None, length: LengthPolicy | None = None) -> TextModel:
    """The model with a sampler that finds out how long a text is to be.

    Args:
        text: model and tokenizer, with the sampler that is to be used.
        max_new_tokens: most tokens of an answer; None to leave the sampler as it is.
        length: when masks come and go, see `llada.samplers.ResizingSampler`; None for `llada.samplers.UntilStop`, which
            appends blocks until the text has ended.

    Raises:
        ValueError: if nothing ends a text, or the sampler can't follow a canvas whose length changes.
    """
    if max_new_tokens is None:
        if length is not None:
            raise ValueError("--length changes how long a text becomes; say by --max_new_tokens how long at most")
        return text
    if isinstance(text.decoding, InsertionSampler) and length is None:  # which finds lengths by itself
        return replace(text, sampler=replace(text.decoding, max_new_tokens=max_new_tokens))
    first = text.tokenizer.eos_token_id  # what a row is filled with
    stops = tuple(sorted(text.stop_token_ids, key=lambda token: (token != first, token)))
    if not stops:
        raise ValueError(
            "--max_new_tokens lets a text go on until it ends, but the tokenizer has no token that ends one; say how "
            "long it is to be by --num_new_tokens alone"
        )
    preset = "low_confidence" if length is None else "fast_dllm"
    try:
        if length is None:
            return replace(text, sampler=UntilStop(text.decoding, stops, max_new_tokens))
        return replace(text, sampler=ResizingSampler(cast(Any, text.decoding), length, stops, max_new_tokens))
    except ValueError as error:
        raise ValueError(
            f"--max_new_tokens: {error}; at the command line: --sampler {preset} --sampler.block_length 32"
        ) from error
