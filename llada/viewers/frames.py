"""What a row looked like before the first step and after each one."""

from collections.abc import Iterable
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
    """

    ids: list[int | None]
    changed: list[bool]
    confidence: list[float | None]
    calls: int


def frames_of(steps: Iterable[Step], tokens: Tensor, given: Tensor, row: int = 0) -> list[Frame]:
    """The frames of a row, the first of them before the first step.

    Args:
        steps: from ``sampler.iterate`` or ``model.iterate``.
        tokens: (B, L) int64, the canvas before the first step.
        given: (B, L) bool, the positions that were never open.
        row: which row of the batch.
    """
    length = tokens.shape[1]
    before = Frame(_ids(tokens[row], ~given[row]), [False] * length, [None] * length, 0)
    return [before, *(frame_of(step, row) for step in steps)]


def frame_of(step: Step, row: int = 0, start: int = 0) -> Frame:
    """A row after a step.

    Args:
        step: from ``sampler.iterate`` or ``model.iterate``.
        row: which row of the batch.
        start: column of its first token; those in front are padding.
    """
    confidence = [None if p != p else p for p in step.confidence[row, start:].tolist()]  # NaN: not considered
    ids = _ids(step.tokens[row, start:], step.open[row, start:])
    return Frame(ids, step.changed[row, start:].tolist(), confidence, int(step.calls[row]))


def _ids(tokens: Tensor, waits: Tensor) -> list[int | None]:
    return [None if open_ else token for token, open_ in zip(tokens.tolist(), waits.tolist(), strict=True)]
