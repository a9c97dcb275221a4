"""Which windows a batch has, how many steps each row gets for each of them, and where its candidates stand."""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.samplers.window import Window


class Part(NamedTuple):
    """One window of a batch.

    Attributes:
        start: its first column.
        stop: the column after its last.
        num_steps: (B,) int64, steps for each row; None if the policy goes on until no mask is left.
        total: the most that any row with these first and last windows may have.
        even: whether they are the same for all rows, which no stop token may end within a window, so that counts of
            masks can be told without asking the device.
    """

    start: int
    stop: int
    num_steps: Tensor | None
    total: int | None
    even: bool


def plan(window: Window, steps: int | None, fillable: Tensor) -> list[Part]:
    """The windows that hold masks, in the order of decoding. A row's steps are for the windows from its first mask on.

    Args:
        window: how the canvas is cut.
        steps: for the whole canvas, or None.
        fillable: (B, L) bool, the masks.

    Raises:
        ValueError: if there are fewer steps than windows.
    """
    first = torch.where(fillable.any(1), fillable.int().argmax(1), -1)
    low, high = (int(value) for value in torch.stack((_least(first), first.max())).cpu())
    if high < 0:
        return []
    spans = window.spans(low, fillable.shape[1])
    ends = torch.tensor([stop for _, stop in spans], device=first.device)
    windows = (ends > first[:, None]).sum(1)  # of each row
    fewest = sum(stop > high for _, stop in spans)
    parts = []
    for index, (start, stop) in enumerate(spans):
        shares = [
            split_steps(steps, n)[index - len(spans) + n]
            for n in range(fewest, len(spans) + 1)
            if index >= len(spans) - n
        ]
        total = None if steps is None else max(share for share in shares if share is not None)
        even = fewest == len(spans) and not window.stops_within
        parts.append(Part(start, stop, _row_steps(steps, windows, len(spans) - index), total, even))
    return parts


def _least(first: Tensor) -> Tensor:
    """The smallest of the numbers that aren't negative, or -1."""
    bound = first.max() + 1
    return torch.where(first < 0, bound, first).min().clamp(max=first.max())


def _row_steps(steps: int | None, windows: Tensor, windows_left: int) -> Tensor | None:
    """Steps of each row for the window after which ``windows_left - 1`` more follow; 0 where the row hasn't begun."""
    if steps is None:
        return None
    index = windows - windows_left
    shares = steps // windows + (index < steps % windows)
    return shares.masked_fill(index < 0, 0)


def split_steps(steps: int | None, num_spans: int) -> list[int | None]:
    """Share the steps of a canvas among its windows, as evenly as integers allow.

    Raises:
        ValueError: if there are fewer steps than windows.
    """
    if steps is None:
        return [None] * num_spans
    if steps < num_spans:
        raise ValueError(
            f"{steps} steps can't be shared among {num_spans} blocks: every block needs one; "
            "use more steps or larger blocks"
        )
    return [steps // num_spans + (index < steps % num_spans) for index in range(num_spans)]


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


def first_mask(fillable: Tensor) -> Tensor:
    """Column of the first mask of each row, (B,) int64; the last column where there is none."""
    return torch.where(fillable.any(1), fillable.int().argmax(1), fillable.shape[1] - 1)


def left_padding(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Padding in front of each row, (B, 1) int64."""
    if attention_mask is None:
        return torch.zeros_like(tokens[:, :1])
    return (attention_mask.long().cumsum(1) == 0).sum(1, keepdim=True)
