"""Several corpora in shares of one's choice, each gone through as often as that takes.

An epoch of the mixture has c_i rows of source i. Over the epochs a source hands out its n_i rows in orders of its own,
one order after the other, so no row comes for the (k + 1)-th time before all have come k times:

    row number j of source i in epoch e:   draw d = e c_i + j,   order d // n_i,   place d % n_i

Which row that is follows from these numbers alone, so a mixture is resumed like any other data, and costs no list.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llada.data.batch import TokenBatch
from llada.data.loader import ResumableLoader, check_loading, evaluation_loader, shard_of, training_loader
from llada.data.order import RowOrder
from llada.data.packing import TokenRows
from llada.data.split import TRAIN, VAL
from llada.data.text import TextDataModule
from llada.data.tokenizers.tokenizer import Tokenizer, check_fingerprint


class JoinedRows(Dataset[TokenBatch]):
    """The rows of several data sets, those of the first before those of the second.

    Args:
        parts: data sets that gather a batch of rows of one length at once.
    """

    def __init__(self, parts: Sequence[TokenRows]) -> None:
        self.parts = list(parts)
        self.counts = np.array([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of rows; indices as in `TokenRows.__getitems__`."""
        part, row = self.locate(np.asarray(indices, dtype=np.int64))
        batch: dict[str, Tensor] = {}
        for number in np.unique(part):
            chosen = np.flatnonzero(part == number)
            found = cast(dict[str, Tensor], self.parts[number].__getitems__(row[chosen].tolist()))
            for name, value in found.items():
                whole = batch.setdefault(name, value.new_empty(len(indices), *value.shape[1:]))
                whole[torch.from_numpy(chosen)] = value
        return cast(TokenBatch, batch)

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The part and the row in it that each index stands for; -1 stays -1."""
        ends = np.cumsum(self.counts)
        part = np.searchsorted(ends, np.maximum(indices, 0), side="right")
        return part, np.where(indices < 0, -1, indices - (ends - self.counts)[part])


class MixedRows(JoinedRows):
    """The rows of a mixture; an index counts on from epoch to epoch.

    Args:
        parts: the sources.
        counts: c_i, rows of each source in an epoch.
        seed: of the sources' own orders.
    """

    by_epoch = True

    def __init__(self, parts: Sequence[TokenRows], counts: Sequence[int], seed: int) -> None:
        super().__init__(parts)
        self.sizes, self.counts, self.seed = self.counts, np.asarray(counts, dtype=np.int64), seed

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source and the row in it that each index stands for."""
        epoch, place = np.divmod(indices, len(self))
        part, within = super().locate(place)
        order, draw = np.divmod(epoch * self.counts[part] + within, self.sizes[part])
        row = np.empty_like(draw)
        for number, turn in set(zip(part.tolist(), order.tolist(), strict=True)):
            chosen = (part == number) & (order == turn)
            own = RowOrder(int(self.sizes[number]), self.seed + ((number + 1) << 32), turn)
            row[chosen] = own(draw[chosen])
        return part, row


class Mixture(LightningDataModule):
    """Texts from several sources, in shares or numbers of epochs that are given.

    Args:
        sources: data of each, with one tokenizer and one ``max_length``; their ``batch_size``, ``num_workers`` and
            ``seed`` aren't used.
        batch_size: rows per batch and rank.
        weights: share of each source in the rows of an epoch; they are divided by their sum.
        epochs: how often an epoch of the mixture goes through each source, such as 0.5 or 3. Give this or ``weights``.
        rows_per_epoch: of the mixture, with ``weights``; None for as many as the sources have together.
        num_workers: processes that load batches.
        seed: of all orders.

    Raises:
        ValueError: if not one of ``weights`` and ``epochs`` is given, with a positive number for each source.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import Mixture, SentencePieceTraining, TextDataModule, TextFiles
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(265).train(["a b"], folder)
        ...     sources = []
        ...     for name in "ab":
        ...         size = Path(folder, f"{name}.txt").write_text(name * 320)
        ...         text = TextFiles(f"{folder}/{name}.txt")
        ...         sources.append(TextDataModule(text, words, 8, 1, val_fraction=0.0, cache_folder=folder))
        ...     data = Mixture(sources, batch_size=4, weights=[3.0, 1.0])
        ...     data.prepare_data()
        ...     data.setup("fit")
        ...     rows = [words.decode(row) for batch in data.train_dataloader() for row in batch["tokens"]]
        >>> sum("a" in row for row in rows), sum("b" in row for row in rows)
        (60, 20)
    """

    def __init__(
        self,
        sources: list[TextDataModule],
        batch_size: int,
        weights: list[float] | None = None,
        epochs: list[float] | None = None,
        rows_per_epoch: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = weights if epochs is None else epochs
        check_loading(batch_size, num_workers)
        if (weights is None) == (epochs is None) or (epochs is not None and rows_per_epoch is not None):
            raise ValueError("give either weights, perhaps with rows_per_epoch, or epochs")
        if given is None or len(given) != len(sources) or not all(0 < value < float("inf") for value in given):
            raise ValueError(f"{len(sources)} sources need as many positive weights or epochs; got {given}")
        if len({(source.max_length, source.separate_documents) for source in sources}) != 1:
            raise ValueError("all sources need the same max_length and separate_documents")
        self.sources, self.batch_size, self.num_workers, self.seed = sources, batch_size, num_workers, seed
        self.weights, self.epochs, self.rows_per_epoch = weights, epochs, rows_per_epoch
        self.max_length = sources[0].max_length
        self._training: list[ResumableLoader] = []

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all sources."""
        return self.sources[0].tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.sources[0].vocab_size

    @property
    def mask_token_id(self) -> int:
        """The mask token."""
        return self.sources[0].mask_token_id

    @property
    def val_bytes_per_token(self) -> float:
        """UTF-8 bytes of all validation text per token."""
        files = [source.rows(VAL).file for source in self._with_val()]  # type: ignore[union-attr]
        return sum(file.num_bytes for file in files) / sum(file.num_tokens for file in files)

    def prepare_data(self) -> None:
        """Write the token files of the sources, unless they are there."""
        for source in self.sources:
            source.prepare_data()

    def setup(self, stage: str) -> None:
        """Open the token files.

        Raises:
            ValueError: if the sources have different tokenizers, as where each trains its own.
        """
        for source in self.sources:
            source.setup(stage)
            check_fingerprint(self.tokenizer, source.tokenizer.fingerprint, f"the source {source.folder}")

    def counts(self) -> list[int]:
        """c_i: rows of each source in an epoch of the mixture, within one row of what was asked for."""
        sizes = np.array([len(source.rows(TRAIN)) for source in self.sources])
        if self.epochs is not None:
            return [max(round(size * epochs), 1) for size, epochs in zip(sizes.tolist(), self.epochs, strict=True)]
        weights = np.asarray(self.weights, dtype=np.float64)
        total = int(sizes.sum()) if self.rows_per_epoch is None else self.rows_per_epoch
        exact = total * weights / weights.sum()
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1  # the largest remainders
        return counts.tolist()

    def token_counts(self, part: str = TRAIN) -> Tensor:
        """How often each token occurs in the sources, (vocab_size,) int64, whatever their weights."""
        return torch.stack([source.token_counts(part) for source in self.sources]).sum(0)

    def train_dataloader(self) -> ResumableLoader:
        """Batches in an order that follows from seed and epoch, and that resumes in mid-epoch."""
        rows = MixedRows([cast(TokenRows, source.rows(TRAIN)) for source in self.sources], self.counts(), self.seed)
        loader = training_loader(rows, self.batch_size, self.num_workers, self.seed, **shard_of(self.trainer))
        loader.trainer = self.trainer
        self._training.append(loader)
        return loader

    def val_dataloader(self) -> DataLoader[TokenBatch] | list[Any]:
        """Every validation row of every source once, in order; nothing if there is none."""
        parts = [cast(TokenRows, source.rows(VAL)) for source in self._with_val()]
        return (
            evaluation_loader(JoinedRows(parts), self.batch_size, self.num_workers, **shard_of(self.trainer))
            if parts
            else []
        )

    def teardown(self, stage: str) -> None:
        """End the processes of a training that stopped in mid-epoch."""
        while self._training:
            self._training.pop().stop()

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's fingerprint and the rows of each source, for the checkpoint."""
        return {"tokenizer": self.tokenizer.fingerprint, "counts": self.counts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another tokenizer or another mixture."""
        check_fingerprint(self.tokenizer, state_dict["tokenizer"], "the checkpoint")
        if state_dict.get("counts") != self.counts():
            raise ValueError(
                f"can't resume: an epoch has {self.counts()} rows of the sources, but had {state_dict.get('counts')} "
                "when it was saved; give the same mixture, or begin a new run from the weights with --init_from"
            )

    def _with_val(self) -> list[TextDataModule]:
        return [source for source in self.sources if VAL in source.parts]
