"""The text of a row piece by piece, as soon as it is final: what stands to the left of the first mask.

A window of blocks or a sliding one brings text out steadily; a whole canvas mostly at its end.
"""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import Sampler, Step

_TORN = "\ufffd"  # the end of a text whose last character isn't whole yet


def stream_text(
    steps: Iterable[Step],
    tokens: Tensor,
    process: MaskingProcess,
    decode: Callable[[list[int]], str],
    *,
    row: int = 0,
    stops: frozenset[int] = frozenset(),
) -> Iterator[str]:
    """Yield what has become final since the last time; all of it joined is the text from the first mask on.

    Once a stop token is reached no more steps are taken, so that their model calls are saved.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``, of a sampler that `is_final` allows.
        tokens: (B, L) int64, the canvas before the first step.
        process: owner of the mask token.
        decode: of a list of tokens, such as ``tokenizer.decode``.
        row: which row of the batch.
        stops: tokens that end the text and aren't part of it.

    Raises:
        ValueError: if a step changes text that was given out.
    """
    masked = process.is_masked(tokens[row]).tolist()
    if not any(masked):
        return
    begin, given = masked.index(True), ""
    for step in steps:
        ids, ended = _prefix(step.tokens[row, begin:].tolist(), process.mask_token_id, stops)
        text = decode(ids)
        if not ended:
            text = text.rstrip(_TORN)
        if not text.startswith(given):
            raise ValueError(
                f"a step turned {given!r} into {text!r} after it was given out; show the steps of a sampler that takes "
                "tokens back with watch(), or its text when it is finished"
            )
        if len(text) > len(given):
            yield text[len(given) :]
        given = text
        if ended:
            return


def is_final(sampler: Sampler) -> bool:
    """Whether a sampler is known never to change a token that it has written."""
    return sampler.is_final


def _prefix(ids: list[int], mask_token_id: int, stops: frozenset[int]) -> tuple[list[int], bool]:
    """Tokens before the first mask or stop token, and whether nothing will follow them."""
    for index, token in enumerate(ids):
        if token == mask_token_id or token in stops:
            return ids[:index], token in stops
    return ids, True
