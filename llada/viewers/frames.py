"""What a row looked like before the first step and after each one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from llada.samplers import Step


class Frame(NamedTuple):
    """A row of the canvas at one time.

    Attributes:
        ids: token ids; None where there is a mask.
        changed: whether the step wrote here, or masked again.
        confidence: probability that the model gave to the token it proposed here; None where it proposed none.
        calls: model calls so far.
        given: whether the position was never open.
        source: place in the frame before of each token, -1 for those that came with the step; None if none moved.
    """

    ids: list[int | None]
    changed: list[bool]
    confidence: list[float | None]
    calls: int
    given: list[bool]
    source: list[int] | None = None


ABSENT = -1
"""What stands where a token was deleted, or has still to come."""


def frames_of(steps: Iterable[Step], tokens: Tensor, given: Tensor, row: int = 0) -> list[Frame]:
    """The frames of a row, the first of them before the first step.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``.
        tokens: (B, L) int64, the canvas before the first step.
        given: (B, L) bool, the positions that were never open.
        row: which row of the batch.
    """
    film = RowFrames(given, row)
    return [film.before(tokens), *map(film.after, steps)]


class RowFrames:
    """Makes the frames of a row one by one.

    Args:
        given: (B, L) bool, the positions that were never open.
        row: which row of the batch.
        start: column of its first token; those in front are padding and aren't shown.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import left_to_right
        >>> from llada.viewers import RowFrames
        >>> canvas, film = torch.tensor([[0, 3, 3]]), RowFrames(given=torch.tensor([[True, False, False]]))
        >>> model = lambda tokens: torch.eye(4)[tokens * 0 + 1]
        >>> [film.after(step).ids for step in left_to_right().iterate(model, canvas, MaskingProcess(3))]
        [[0, 1, None], [0, 1, 1]]
    """

    def __init__(self, given: Tensor, row: int = 0, start: int = 0) -> None:
        self.given, self.row, self.start = given, row, start
        self.stop = given.shape[1]

    def before(self, tokens: Tensor) -> Frame:
        """The row before the first step; ``tokens`` (B, L) int64."""
        given = self.given[self.row, self.start :]
        number = len(given)
        ids = _ids(tokens[self.row, self.start :], ~given)
        return Frame(ids, [False] * number, [None] * number, 0, given.tolist())

    def after(self, step: Step) -> Frame:
        """The row after a step, without the padding behind it."""
        self.given, source = step.carried(self.given), None
        if step.edit is not None:
            before, self.stop = self.stop, last_column(step.edit.real[self.row])
            columns = step.edit.source[self.row, self.start : self.stop]
            source = [-1 if column < 0 else column - self.start for column in columns.tolist()]
            source = None if source == list(range(before - self.start)) else source
        shown = slice(self.start, self.stop)
        confidence = [None if p != p else p for p in step.confidence[self.row, shown].tolist()]  # NaN: not considered
        return Frame(
            _ids(step.tokens[self.row, shown], step.open[self.row, shown]),
            step.changed[self.row, shown].tolist(),
            confidence,
            int(step.calls[self.row]),
            self.given[self.row, shown].tolist(),
            source,
        )


def aligned(frames: Sequence[Frame]) -> list[Frame]:
    """The same frames with a place for every token that was ever there, `ABSENT` while it isn't.

    Args:
        frames: of a row whose tokens may move.
    """
    places = list(range(len(frames[0].ids)))  # of the frame at hand, in the order of all places
    order, shown = list(places), [places]
    for frame in frames[1:]:
        if frame.source is not None:
            before, places = places, []
            for source in frame.source:
                places.append(before[source] if source >= 0 else len(order))
                if source < 0:  # behind its left neighbour
                    order.insert(order.index(places[-2]) + 1 if len(places) > 1 else 0, len(order))
        shown.append(places)
    spread, there = [], dict.fromkeys(shown[0])
    for frame, places in zip(frames, shown, strict=True):
        index = {place: i for i, place in enumerate(places)}
        at = [index.get(place) for place in order]
        toggled = [(place in there) != (place in index) for place in order]
        spread.append(
            Frame(
                [ABSENT if i is None else frame.ids[i] for i in at],
                [new or (i is not None and frame.changed[i]) for i, new in zip(at, toggled, strict=True)],
                [None if i is None else frame.confidence[i] for i in at],
                frame.calls,
                [i is not None and frame.given[i] for i in at],
            )
        )
        there = dict.fromkeys(places)
    return spread


def last_column(real: Tensor) -> int:
    """The number of columns up to the last real token of a row, (L,) bool: without the padding behind it."""
    return int(real.nonzero()[-1]) + 1 if bool(real.any()) else 0


def _ids(tokens: Tensor, waits: Tensor) -> list[int | None]:
    return [None if open_ else token for token, open_ in zip(tokens.tolist(), waits.tolist(), strict=True)]
