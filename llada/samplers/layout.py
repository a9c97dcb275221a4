"""Which spans a batch has, how many steps each row gets for each of them, and where its candidates stand."""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.samplers.window import Window, stops_within


class Span(NamedTuple):
    """Columns of a batch that are finished before the next are begun.

    Attributes:
        start: the first column.
        stop: the column after the last.
        num_steps: (B,) int64, steps for each row; None if decoding goes on until nothing is open.
        total: the most that any row with these first and last spans may have.
        even: whether they are the same for all rows, which no stop token may end within a span, so that counts of
            open positions can be told without asking the device.
    """

    start: int
    stop: int
    num_steps: Tensor | None
    total: int | None
    even: bool


def plan(window: Window, steps: int | None, unknown: Tensor) -> list[Span]:
    """The spans with open positions, in the order of decoding. A row's steps are for those from its first open one on.

    Args:
        window: how the canvas is cut.
        steps: for the whole canvas, or None.
        unknown: (B, L) bool, the open positions.

    Raises:
        ValueError: if there are fewer steps than spans.
    """
    first = torch.where(unknown.any(1), unknown.int().argmax(1), -1)
    low, high = (int(value) for value in torch.stack((_least(first), first.max())).cpu())
    if high < 0:
        return []
    spans = window.spans(low, unknown.shape[1])
    ends = torch.tensor([stop for _, stop in spans], device=first.device)
    numbers = (ends > first[:, None]).sum(1)  # spans of each row
    fewest = sum(stop > high for _, stop in spans)
    even = fewest == len(spans) and not stops_within(window)
    planned = []
    for index, (start, stop) in enumerate(spans):
        num_steps, total = None, None
        if steps is not None:
            after = len(spans) - index
            total = max(split_steps(steps, n)[n - after] for n in range(max(fewest, after), len(spans) + 1))
            begun = numbers >= after
            num_steps = steps_of_span(steps, numbers.clamp(min=1), numbers - after).masked_fill(~begun, 0)
        planned.append(Span(start, stop, num_steps, total, even))
    return planned


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


def steps_of_span(steps: int, num_spans: Tensor, index: Tensor) -> Tensor:
    """Steps of a span when they are shared as evenly as integers allow: one more in each of the first ones.

    Args:
        steps: for the whole canvas.
        num_spans: how many spans share them, integers of any shape.
        index: of the span, counted from 0, of the same shape.
    """
    return steps // num_spans + (index < steps % num_spans)


def split_steps(steps: int, num_spans: int) -> list[int]:
    """The steps of every span.

    Raises:
        ValueError: if there are fewer steps than spans.
    """
    if steps < num_spans:
        raise ValueError(
            f"{steps} steps can't be shared among {num_spans} blocks: every block needs one; "
            "use more steps or larger blocks"
        )
    return steps_of_span(steps, torch.tensor(num_spans), torch.arange(num_spans)).tolist()


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
