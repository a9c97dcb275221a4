"""Which spans a batch has, how many steps each row gets for each of them, and where its candidates stand."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llada.samplers.window import Window


class Span(NamedTuple):
    """Columns of a batch that are finished before the next are begun.

    Attributes:
        start: the first column.
        stop: the column after the last.
        num_steps: (B,) int64, steps for each row; None if decoding goes on until nothing is open.
        shares: the same numbers, known to the host.
    """

    start: int
    stop: int
    num_steps: Tensor | None = None
    shares: tuple[int, ...] | None = None


def plan(window: Window, steps: int | None, unknown: Tensor, *, on_grid: bool = False) -> list[Span]:
    """The spans with open positions, in the order of decoding; each row shares its steps among its own.

    Args:
        window: how the canvas is cut.
        steps: for the whole canvas, or None.
        unknown: (B, L) bool, the open positions.
        on_grid: whether None means a step for every open position, rather than no number of steps.

    Raises:
        ValueError: if there are fewer steps than spans with something open.
    """
    first = torch.where(unknown.any(1), unknown.int().argmax(1), -1)
    low, high = (int(value) for value in torch.stack((_least(first), first.max())).cpu())
    if high < 0:
        return []
    spans = [Span(start, stop) for start, stop in window.spans(low, unknown.shape[1])]
    if steps is None and not on_grid:
        return spans
    ends = torch.tensor([span.stop - 1 for span in spans], device=unknown.device)
    masks = unknown.cumsum(1)[:, ends].diff(dim=1, prepend=torch.zeros_like(first[:, None])).tolist()
    shares = [share_steps(steps, row) for row in masks]
    numbers = torch.tensor(shares, device=unknown.device)
    return [
        span._replace(num_steps=numbers[:, i], shares=tuple(row[i] for row in shares)) for i, span in enumerate(spans)
    ]


def share_steps(steps: int | None, masks: Sequence[int]) -> list[int]:
    """How many of a row's steps each of its spans gets.

    With at least as many steps as masks every mask has a step of its own. With fewer, a span gets one, and of the rest
    a share for each mask behind its first. Among spans with equally many masks equal shares result wherever they
    divide, which are those of LLaDA's released code.

    Args:
        steps: of the row; None for one per mask.
        masks: open positions of each span.

    Returns:
        One number per span: 0 where nothing is open. They add up to ``steps``, where that isn't None.

    Raises:
        ValueError: if there are fewer steps than spans with something open.
    """
    if steps is None:
        return list(masks)
    total, begun = sum(masks), sum(number > 0 for number in masks)
    if steps < begun:
        raise ValueError(
            f"{steps} steps can't be shared among {begun} blocks: every block needs one; "
            "use more steps, larger blocks, or steps=None for one per mask"
        )
    shares, done, spans, before = [], 0, 0, 0
    for number in masks:
        done, spans = done + number, spans + (number > 0)
        if steps >= total:
            upto = -(-steps * done // max(total, 1))
        else:
            upto = spans + -(-(steps - begun) * (done - spans) // (total - begun))
        shares.append(upto - before)
        before = upto
    return shares


def own_begins(window: Window, unknown: Tensor) -> list[int]:
    """Where the first window of each row would begin if it were alone; 0 for rows with nothing open.

    Args:
        window: how the canvas is cut.
        unknown: (B, L) bool, the open positions.
    """
    length = unknown.shape[1]
    first = torch.where(unknown.any(1), unknown.int().argmax(1), -1).tolist()
    begins = {column: window.spans(column, length)[0][0] for column in set(first) if column >= 0}
    return [begins.get(column, 0) for column in first]


def _least(first: Tensor) -> Tensor:
    """The smallest of the numbers that aren't negative, or -1."""
    bound = first.max() + 1
    return torch.where(first < 0, bound, first).min().clamp(max=first.max())


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Columns of the first ``count`` true entries of each row, in order.

    Args:
        mask: (B, L) bool.
        count: M, at least the largest number of true entries of a row that are wanted.

    Returns:
        columns (B, M) int64, and which of them are true entries, (B, M) bool; rows with fewer are filled up with
        others.
    """
    columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    return columns, mask.gather(1, columns)


def first_column(mask: Tensor) -> Tensor:
    """Column of the first true entry of each row, (B,) int64; the last column where there is none."""
    return torch.where(mask.any(1), mask.int().argmax(1), mask.shape[1] - 1)
