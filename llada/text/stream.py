"""The text of a row piece by piece, as soon as it is final: what stands to the left of the first mask.

A window of blocks or a sliding one brings text out steadily; a whole canvas mostly at its end.
"""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from llada.rows import count_before
from llada.samplers import Step

_TORN = "\ufffd"  # the end of a text whose last character isn't whole yet


def stream_text(
    steps: Iterable[Step],
    given: Tensor,
    decode: Callable[[list[int]], str],
    *,
    row: int = 0,
    stops: frozenset[int] = frozenset(),
) -> Iterator[str]:
    """Yield what has become final since the last time; all of it joined is the text from the first mask on.

    Once a stop token is reached no more steps are taken, so that their model calls are saved.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``, of a sampler whose ``is_final`` is true.
        given: (B, L) bool, the positions that were never open: see `llada.samplers.Canvas`.
        decode: gives the text of a list of tokens, such as ``tokenizer.decode``.
        row: which row of the batch.
        stops: tokens that end the text and aren't part of it.

    Raises:
        ValueError: if a step changes text that was given out.
    """
    to_write = (~given[row]).tolist()
    if not any(to_write):
        return
    begin, shown, whole, grows, real = to_write.index(True), "", "", False, None
    for step in steps:
        if step.edit is not None:  # more may come behind a row that is full
            grows, real = True, int(step.edit.real[row, begin:].sum())
        ids, waits = step.tokens[row, begin:][:real].tolist(), step.open[row, begin:][:real].tolist()
        written = count_before(waits, {True})
        final = count_before(ids[:written], stops)
        ended = final < written or (written == len(ids) and not grows)
        whole = decode(ids[:final])
        text = whole if ended else whole.rstrip(_TORN)
        if not text.startswith(shown):
            raise ValueError(
                f"a step turned {shown!r} into {text!r} after it was given out; show the steps of a sampler that takes "
                "tokens back with watch(), or its text when it is finished"
            )
        if len(text) > len(shown):
            yield text[len(shown) :]
        shown = text
        if ended:
            return
    if grows and len(whole) > len(shown):
        yield whole[len(shown) :]
