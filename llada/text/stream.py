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
    begin, final, grows, real = to_write.index(True), FinalText(decode, stops), False, None
    for step in steps:
        if step.edit is not None:  # more may come behind a row that is full
            grows, real = True, int(step.edit.real[row, begin:].sum())
        ids, waits = step.tokens[row, begin:][:real].tolist(), step.open[row, begin:][:real].tolist()
        yield from filter(None, [final.push(ids, waits, grows=grows)])
        if final.ended:
            return
    yield from filter(None, [final.rest()])


class FinalText:
    """What of a row's text is final after each step, told once.

    Args:
        decode: gives the text of a list of tokens.
        stops: tokens that end the text and aren't part of it.

    Attributes:
        shown: all that was told.
        ended: whether nothing can follow: a stop token is reached, or every place is written.

    Examples:
        >>> from llada.text import FinalText
        >>> text = FinalText(lambda ids: "".join("abc"[token] for token in ids))
        >>> text.push([0, 1, 2], [False, True, False])  # the middle still waits
        'a'
        >>> text.push([0, 1, 2], [False, False, False])
        'bc'
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: frozenset[int] = frozenset()) -> None:
        self.decode, self.stops = decode, stops
        self.shown, self.ended = "", False
        self._whole = ""

    def push(self, ids: list[int], waits: list[bool], *, grows: bool = False) -> str:
        """What has become final with this step.

        Args:
            ids: the tokens from the text's beginning on.
            waits: which of them are still to be written.
            grows: whether more may come behind them.

        Raises:
            ValueError: if the step changes text that was given out.
        """
        written = count_before(waits, {True})
        final = count_before(ids[:written], self.stops)
        self.ended = final < written or (written == len(ids) and not grows)
        self._whole = self.decode(ids[:final])
        text = self._whole if self.ended else self._whole.rstrip(_TORN)
        if not text.startswith(self.shown):
            raise ValueError(
                f"a step turned {self.shown!r} into {text!r} after it was given out; show the steps of a sampler that "
                "takes tokens back with watch(), or its text when it is finished"
            )
        new, self.shown = text[len(self.shown) :], text
        return new

    def rest(self) -> str:
        """What is left when no step follows: the end of a text that might have grown."""
        new, self.shown = self._whole[len(self.shown) :], self._whole
        return new
