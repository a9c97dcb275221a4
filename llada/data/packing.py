"""Rows of one length cut from the concatenated documents.

Row r holds tokens r L .. (r + 1) L - 1 of the file, so packing wastes nothing but the last, incomplete row. A batch is
one gather from the memory map; no token passes through Python.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from llada.data.batch import AnswerRow, Padding, TokenBatch
from llada.data.token_file import TokenFile
from llada.data.tokenizers.tokenizer import Tokenizer


class TokenRows(Dataset[TokenBatch]):
    """Rows of equal length over a token file.

    Args:
        file: the tokens.
        max_length: L.
        separate_documents: whether to give ``segment_ids``, by which the documents of a row don't see one another.

    Raises:
        ValueError: if the file has less than one row.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import TokenFile, TokenFileWriter, TokenRows
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         writer.add([1, 2, 3])
        ...         writer.add([4, 5, 6, 7, 8])
        ...     file = TokenFile(writer.path)
        >>> rows = TokenRows(file, max_length=4, separate_documents=True)
        >>> rows[0]["tokens"], rows[0]["segment_ids"]
        (tensor([1, 2, 3, 4]), tensor([0, 0, 0, 1]))
        >>> len(rows)
        2
    """

    def __init__(self, file: TokenFile, max_length: int, separate_documents: bool = False) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more; got {max_length}")
        if file.num_tokens < max_length:
            raise ValueError(
                f"{file.path} has {file.num_tokens} tokens, less than one row of {max_length}; "
                "give more text or a smaller max_length"
            )
        self.file, self.max_length, self.separate_documents = file, max_length, separate_documents
        self._num_rows = file.num_tokens // max_length

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> TokenBatch:
        """One row, without a batch dimension."""
        return _only_row(self.__getitems__([index]))

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of rows.

        Args:
            indices: B row numbers; -1 gives a row without maskable tokens, which fills up a rank's last batch.
        """
        rows = np.asarray(indices, dtype=np.int64)
        grid = self.file.tokens[: self._num_rows * self.max_length].reshape(self._num_rows, self.max_length)
        tokens = torch.from_numpy(grid[rows].astype(np.int64))
        maskable = torch.ones(tokens.shape, dtype=torch.bool)
        maskable[torch.from_numpy(rows < 0)] = False
        batch: TokenBatch = {"tokens": tokens, "maskable": maskable}
        if self.separate_documents:
            starts = (rows % self._num_rows) * self.max_length
            batch["segment_ids"] = torch.from_numpy(segments(self.file.offsets, starts, self.max_length))
        return batch


def segments(offsets: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The document of each position, counted from 0 in each row.

    Args:
        offsets: (num_documents + 1,) ascending document starts, and the end.
        starts: (B,) first position of each row.
        length: L.

    Returns:
        (B, L) int64.
    """
    # A row's documents change at the offsets inside it: mark those and sum up.
    first = np.searchsorted(offsets, starts, side="right")
    counts = np.searchsorted(offsets, starts + length, side="left") - first
    row = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    changes = np.zeros((len(starts), length), dtype=np.int64)
    changes[row, offsets[first[row] + within] - starts[row]] = 1
    return changes.cumsum(1)


class AnswerRows(Dataset[TokenBatch]):
    """Prompts with their answers over a token file in which they take turns: prompt, answer, prompt, answer, ...

    Args:
        file: the tokens; document 2 k is the prompt of row k and document 2 k + 1 its answer.
        padding: makes a batch of rows of unequal length.
        tokenizer: knows the ids that the padding needs.

    Raises:
        ValueError: if the file is empty or has an odd number of documents.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from types import SimpleNamespace
        >>> from llada.data import AnswerRows, ExcludedPadding, TokenFile, TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         for document in ([5, 6], [7], [5], [8, 9, 9]):  # prompt, answer, prompt, answer
        ...             writer.add(document)
        ...     file = TokenFile(writer.path)
        >>> rows = AnswerRows(file, ExcludedPadding(), SimpleNamespace(special_id={"pad": 0}.get))
        >>> batch = rows.__getitems__([0, 1])
        >>> batch["tokens"].tolist(), batch["maskable"].int().tolist()
        ([[5, 6, 7, 0], [5, 8, 9, 9]], [[0, 0, 1, 0], [0, 1, 1, 1]])
    """

    def __init__(self, file: TokenFile, padding: Padding, tokenizer: Tokenizer) -> None:
        if file.num_documents == 0 or file.num_documents % 2:
            raise ValueError(f"{file.path} has {file.num_documents} documents; expected prompts and answers in turn")
        self.file, self.padding, self.tokenizer = file, padding, tokenizer

    def __len__(self) -> int:
        return self.file.num_documents // 2

    def __getitem__(self, index: int) -> TokenBatch:
        """One row, without a batch dimension."""
        return _only_row(self.__getitems__([index]))

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of rows, padded; indices as in `TokenRows.__getitems__`."""
        batch = self.padding([self.row(index) for index in indices], self.tokenizer)
        batch["maskable"][torch.tensor(indices) < 0] = False
        return batch

    def row(self, index: int) -> AnswerRow:
        """One prompt and its answer."""
        index %= len(self)
        start, middle, end = (int(offset) for offset in self.file.offsets[2 * index : 2 * index + 3])
        return AnswerRow(torch.from_numpy(self.file.tokens[start:end].astype(np.int64)), middle - start)


class Canvases(Dataset[TokenBatch]):
    """Rows with masks where something is to be generated, for ``predict``.

    Args:
        rows: clean rows that gather a batch at once.
        mask_token_id: what stands at the places to fill.
        visible: how many positions at the head of a row stay as they are; what isn't maskable stays too.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import Canvases, TokenFile, TokenFileWriter, TokenRows
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         writer.add([5, 6, 7, 8])
        ...     file = TokenFile(writer.path)
        >>> Canvases(TokenRows(file, max_length=4), mask_token_id=9, visible=1).__getitems__([0])["tokens"]
        tensor([[5, 9, 9, 9]])
    """

    def __init__(self, rows: TokenRows | AnswerRows, mask_token_id: int, visible: int = 0) -> None:
        self.rows, self.mask_token_id, self.visible = rows, mask_token_id, visible

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of canvases; indices as in `TokenRows.__getitems__`."""
        batch = self.rows.__getitems__(indices)
        batch["maskable"][:, : self.visible] = False
        batch["tokens"].masked_fill_(batch["maskable"], self.mask_token_id)
        return batch


def _only_row(batch: TokenBatch) -> TokenBatch:
    return {name: value[0] for name, value in cast(dict[str, Tensor], batch).items()}  # type: ignore[return-value]
