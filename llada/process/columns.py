"""Columns that come and go: what an edit does to a canvas whose rows have lengths of their own.

A row keeps its padding in front. Its tokens close up where columns are deleted, make room where some are inserted, and
rows that are now shorter than the longest are padded behind. So the columns to the left of a row's first edit stay
where they are, and what is cached of them stays valid:

    old row   . a b c d        delete c, two in front of b
    new row   . a _ _ b d

Shapes: B rows, L columns before, N columns after.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llada.rows import left_padding


@dataclass(frozen=True, eq=False)
class Edit:
    """Where the columns of a canvas come from.

    Args:
        source: (B, N) int64, the old column of each new one; -1 for those that are inserted and for padding behind.
        real: (B, N) bool, true for everything but padding: the new attention mask.
    """

    source: Tensor
    real: Tensor

    @classmethod
    def of(cls, real: Tensor, delete: Tensor | None = None, insert: Tensor | None = None) -> "Edit":
        """The edit that deletes some columns and inserts others.

        Args:
            real: (B, L) bool, true for real tokens, which stand in one piece in each row.
            delete: (B, L) bool, columns that go; None for none. Padding can't be deleted.
            insert: (B, L + 1) int64, how many come in front of each column; those at the row's end, wherever its
                padding begins, behind its last token. None for none.

        Raises:
            ValueError: if a shape is wrong, a number is negative, or a row's tokens have padding between them.
        """
        rows, length = real.shape
        keep = real if delete is None else real & ~delete
        insert = real.new_zeros(rows, length + 1, dtype=torch.int64) if insert is None else insert
        _check(real, keep, insert)
        columns = torch.arange(length + 1, device=real.device)
        first = left_padding(real, real)
        end = (first + real.sum(1, keepdim=True)).clamp(max=length)
        # In front of the row's first token, or behind its last: padding itself is never split.
        insert = torch.zeros_like(insert).scatter_add(1, torch.minimum(torch.maximum(columns, first), end), insert)
        sizes = insert + torch.nn.functional.pad(keep, (0, 1))
        start = first + sizes.cumsum(1) - sizes
        width = int((first[:, 0] + sizes.sum(1)).max())
        goes = torch.where(keep, (start + insert)[:, :-1], width)
        source = torch.full((rows, width + 1), -1, device=real.device)
        source = source.scatter(1, goes, columns[:-1].expand_as(goes))[:, :-1]
        new = torch.arange(width, device=real.device)
        source = torch.where(new < first, new, source)
        return cls(source, (new >= first) & (new < first + sizes.sum(1, keepdim=True)))

    @cached_property
    def inserted(self) -> Tensor:
        """(B, N) bool, the columns that are new and no padding."""
        return self.real & (self.source < 0)

    @cached_property
    def first(self) -> Tensor:
        """(B,) int64, the first column of each row that isn't what it was; N where all are."""
        other = self.source != torch.arange(self.source.shape[1], device=self.source.device)
        return torch.where(other.any(1), other.int().argmax(1), other.shape[1])

    def __call__(self, values: Tensor, inserted: float | bool = 0, behind: float | bool | None = None) -> Tensor:
        """Values of the old columns at their new places.

        Args:
            values: (B, L).
            inserted: for new columns.
            behind: for padding behind a row; None for the same.
        """
        moved = values.gather(1, self.source.clamp(min=0))
        moved = moved.masked_fill(self.inserted, inserted)
        return moved.masked_fill((self.source < 0) & ~self.real, inserted if behind is None else behind)

    def repeat(self, copies: int, branches: int = 1) -> "Edit":
        """The edit of a batch that has every row ``copies`` times in succession, and all of that ``branches`` times."""
        source, real = (part.repeat_interleave(copies, 0).repeat(branches, 1) for part in (self.source, self.real))
        return Edit(source, real)


def _check(real: Tensor, keep: Tensor, insert: Tensor) -> None:
    rows, length = real.shape
    if keep.shape != real.shape or insert.shape != (rows, length + 1):
        raise ValueError(
            f"delete must be {(rows, length)} and insert {(rows, length + 1)}; "
            f"got {tuple(keep.shape)} and {tuple(insert.shape)}"
        )
    if bool((insert < 0).any()):
        raise ValueError(f"the number of inserted columns must be 0 or more; got {int(insert.min())}")
    before = torch.nn.functional.pad(real, (1, 0))[:, :-1]
    if bool(((real & ~before).sum(1) > 1).any()):
        raise ValueError(
            "columns can't move in a row that has padding between its tokens; pad in front of rows or behind them"
        )
