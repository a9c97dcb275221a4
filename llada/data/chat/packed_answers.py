"""Prompts with their answers packed into rows of one length: several in a row, none of which sees another.

Which rows hold what is planned once from the lengths alone, so it is the same on every rank and after a resume; the
loader then shuffles whole rows. A batch is one gather from the memory map.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from llada.data.batch import TokenBatch
from llada.data.packing import AnswerRows


class RowPacking(ABC):
    """Decides what shares a row."""

    @abstractmethod
    def __call__(self, lengths: NDArray[np.int64], max_length: int) -> list[list[int]]:
        """The members of each row, every index of ``lengths`` once.

        Args:
            lengths: (n,) tokens of each conversation, at most ``max_length``.
            max_length: L.
        """


@dataclass(frozen=True)
class FirstFitDecreasing(RowPacking):
    """The longest first, each into the first row with room for it. Needs at most 11/9 of the fewest rows, and one.

    Args:
        buffer: conversations that are looked at together, in the order of the file. More fill rows better, and take
            longer to plan.

    Raises:
        ValueError: if ``buffer`` is less than 1.

    Examples:
        >>> import numpy as np
        >>> from llada.data import FirstFitDecreasing
        >>> lengths = np.array([3, 5, 2, 4, 2])
        >>> FirstFitDecreasing()(lengths, max_length=8)  # which of them share a row of eight tokens
        [[1, 0], [3, 2, 4]]
    """

    buffer: int = 4096

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise ValueError(f"buffer must be 1 or more; got {self.buffer}")

    @override
    def __call__(self, lengths: NDArray[np.int64], max_length: int) -> list[list[int]]:
        rows: list[list[int]] = []
        for start in range(0, len(lengths), self.buffer):
            rows.extend(self._fill(lengths[start : start + self.buffer], max_length, start))
        return rows

    def _fill(self, lengths: NDArray[np.int64], max_length: int, start: int) -> list[list[int]]:
        rows: list[list[int]] = []
        room = np.full(len(lengths), max_length)  # of as many rows as there can be
        for index in np.argsort(-lengths, kind="stable").tolist():
            row = int(np.argmax(room >= lengths[index]))
            room[row] -= lengths[index]
            if row == len(rows):
                rows.append([])
            rows[row].append(start + index)
        return rows


class PackedAnswers(Dataset[TokenBatch]):
    """Rows of several prompts with their answers; only answers are maskable, and what is left of a row is padding.

    Args:
        alone: the same prompts and answers, a row each.
        max_length: L.
        packing: decides what shares a row.

    Raises:
        ValueError: if a prompt with its answer is longer than a row.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import AnswerRows, ExcludedPadding, FirstFitDecreasing, PackedAnswers
        >>> from llada.data import TokenFile, TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         for document in ([5], [6, 6], [5, 5], [7, 7, 7], [5], [8]):  # three prompts, each with its answer
        ...             writer.add(document)
        ...     file = TokenFile(writer.path)
        >>> alone = AnswerRows(file, ExcludedPadding(), None)
        >>> rows = PackedAnswers(alone, max_length=5, packing=FirstFitDecreasing())
        >>> batch = rows.__getitems__([0, 1])
        >>> batch["tokens"].tolist(), batch["maskable"].int().tolist(), batch["segment_ids"].tolist()
        ([[5, 5, 7, 7, 7], [5, 6, 6, 5, 8]], [[0, 0, 1, 1, 1], [0, 1, 1, 0, 1]], [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])
        >>> rows.fill
        1.0
    """

    def __init__(self, alone: AnswerRows, max_length: int, packing: RowPacking) -> None:
        self.alone, self.max_length, self.packing = alone, max_length, packing
        self._bounds = alone.file.offsets.reshape(-1)
        lengths = np.diff(self._bounds[::2])
        if lengths.max() > max_length:
            raise ValueError(
                f"{alone.file.path}: a prompt with its answer has {lengths.max()} tokens, more than max_length="
                f"{max_length}; raise it, or drop what is too long"
            )
        plan = packing(lengths, max_length)
        self._members = np.concatenate([np.asarray(row, dtype=np.int64) for row in plan])
        self._starts = np.concatenate([[0], np.cumsum([len(row) for row in plan])])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def fill(self) -> float:
        """Share of the positions that hold tokens."""
        return float(self._bounds[-1] - self._bounds[0]) / (len(self) * self.max_length)

    def members(self, index: int) -> list[int]:
        """Which rows of ``alone`` a row holds, in order."""
        found: list[int] = self._members[self._starts[index] : self._starts[index + 1]].tolist()
        return found

    def __getitem__(self, index: int) -> TokenBatch:
        """One row, without a batch dimension."""
        batch = cast(dict[str, Tensor], self.__getitems__([index]))
        return cast(TokenBatch, {name: value[0] for name, value in batch.items()})

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of rows.

        Args:
            indices: B row numbers; -1 gives a row without maskable tokens, which fills up a rank's last batch.
        """
        rows = np.asarray(indices, dtype=np.int64) % len(self)
        counts = self._starts[rows + 1] - self._starts[rows]
        members = self._members[_ranges(self._starts[rows], counts)]
        begin, middle, end = (self._bounds[2 * members + place] for place in range(3))
        lengths = end - begin
        # Every token's row, place in it and number of its conversation, without a loop over tokens.
        row = np.repeat(np.arange(len(rows)), counts)
        before = np.cumsum(lengths) - lengths
        first = np.cumsum(counts) - counts
        place = _ranges(before - np.repeat(before[first], counts), lengths)
        where = (np.repeat(row, lengths), place)
        source = _ranges(begin, lengths)
        shape = (len(rows), self.max_length)
        tokens, segments = np.zeros(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        real, maskable = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        segments[:] = counts[:, None]  # what is left of a row is a segment behind the others
        tokens[where] = self.alone.file.tokens[source]
        segments[where] = np.repeat(np.arange(len(row)) - np.repeat(first, counts), lengths)
        real[where] = True
        maskable[where] = source >= np.repeat(middle, lengths)
        maskable[np.asarray(indices) < 0] = False
        batch: TokenBatch = {"tokens": torch.from_numpy(tokens), "maskable": torch.from_numpy(maskable)}
        batch["segment_ids"] = torch.from_numpy(segments)
        if not real.all():
            batch["attention_mask"] = torch.from_numpy(real)
        return batch


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ..., start + length - 1 for one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
