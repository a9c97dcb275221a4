"""What the data modules share: a cache of token files, the split, the loaders, and a state that names the tokenizer."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from llada.built import check_built
from llada.data.batch import TokenBatch
from llada.data.chat.packed_answers import PackedAnswers
from llada.data.loader import ResumableLoader, check_loading, evaluation_loader, shard_of, training_loader
from llada.data.packing import AnswerRows, Canvases, TokenRows
from llada.data.split import SOON_READ, TEST, TRAIN, VAL, Documents, check_fractions, held_out, nothing_for, part_of
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.saved_tokenizer import load_tokenizer
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining, check_fingerprint
from llada.data.told import told
from llada.files.atomic import build_folder

_FORMAT = 1
_log = logging.getLogger(__name__)

Rows = TokenRows | AnswerRows | PackedAnswers
Document = TypeVar("Document")


class TokenDataModule(LightningDataModule, ABC, Generic[Document]):
    """Token files made once per setting, and rows from them.

    Files and tokenizer are in a sub-folder of ``cache_folder`` that is named after everything they depend on: other
    settings or other text give another sub-folder, and nothing is overwritten.

    Args:
        source: documents.
        tokenizer: a tokenizer, or how to train one on the training text.
        cache_folder: where the files go.
        batch_size: rows per batch and rank.
        val_source: validation documents; None to take them from ``source``.
        test_source: likewise for the test.
        val_fraction: share of ``source`` for validation where there is no ``val_source``, chosen by a hash of the text;
            0 for none. Of a few documents, of which a share is none, one is held out.
        test_fraction: likewise for the test.
        num_workers: processes that load batches.
        seed: of the order of rows; the split doesn't depend on it.

    Raises:
        ValueError: if the sizes or fractions are out of range.
    """

    verify: bool | None = None
    """Whether the whole content of the token files is checked when they are opened; see `TokenFile`."""

    def __init__(
        self,
        source: Documents[Document],
        tokenizer: Tokenizer | TokenizerTraining,
        cache_folder: str,
        batch_size: int,
        val_source: Documents[Document] | None,
        test_source: Documents[Document] | None,
        val_fraction: float,
        test_fraction: float,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        for name, part in (("source", source), ("val_source", val_source), ("test_source", test_source)):
            check_built(name, part, Documents | None)
        check_built("tokenizer", tokenizer, Tokenizer | TokenizerTraining)
        check_loading(batch_size, num_workers)
        check_fractions(val_fraction, test_fraction)
        self.source, self.val_source, self.test_source = source, val_source, test_source
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.cache_folder, self.batch_size, self.num_workers, self.seed = cache_folder, batch_size, num_workers, seed
        self._given_tokenizer = tokenizer
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else None
        self._files: dict[str, TokenFile] = {}
        self._rows: dict[str, Rows] = {}
        self._training: list[ResumableLoader] = []

    @abstractmethod
    def key(self, document: Document) -> str:
        """What decides on which side of the split a document falls."""

    @abstractmethod
    def texts(self, document: Document) -> Iterable[str]:
        """What a tokenizer is trained on."""

    @abstractmethod
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        """Encode `documents` into the files of their parts."""

    @abstractmethod
    def make_rows(self, file: TokenFile) -> Rows:
        """The rows of a token file."""

    @abstractmethod
    def make_canvases(self, rows: TokenRows | AnswerRows) -> Canvases:
        """What ``predict`` fills in, one canvas for each row that isn't packed."""

    def settings(self) -> dict[str, Any]:
        """All that the token files depend on."""
        given = self._given_tokenizer
        sources = {part: source.fingerprint() for part, source in self._sources().items()}
        tokenizer = given.fingerprint if isinstance(given, Tokenizer) else repr(given)
        split = [self.val_fraction, self.test_fraction]
        return {"format": _FORMAT, "tokenizer": tokenizer, "split": split, "sources": sources}

    @property
    def folder(self) -> Path:
        """Sub-folder of ``cache_folder`` with the token files and the tokenizer."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()
        return Path(self.cache_folder) / digest[:16]

    @property
    def parts(self) -> list[str]:
        """Which of "train", "val", "test" there are."""
        shares = {VAL: self.val_fraction, TEST: self.test_fraction}
        return [TRAIN, *(part for part, share in shares.items() if share > 0 or part in self._sources())]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ValueError: if it is still to be trained.
        """
        if self._tokenizer is None:
            if not self.folder.is_dir():
                raise ValueError("the tokenizer isn't trained yet; call prepare_data() first, as the Trainer does")
            self._tokenizer = load_tokenizer(self.folder)
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of token ids; known before the tokenizer is trained."""
        return self._given_tokenizer.vocab_size

    @property
    def mask_token_id(self) -> int:
        """The mask token; known before the tokenizer is trained."""
        return self._given_tokenizer.mask_token_id

    def prepare_data(self) -> None:
        """Train the tokenizer and write the token files, unless they are there. The Trainer calls this on one rank."""
        build_folder(self.folder, self._build)

    def setup(self, stage: str) -> None:
        """Open the token files.

        Raises:
            ValueError: if they weren't prepared, are damaged, or were made with another tokenizer.
        """
        folder = self.folder
        if not folder.is_dir():
            raise ValueError(f"there are no token files in {folder}; call prepare_data() first, as the Trainer does")
        self._files = {part: TokenFile(folder / f"{part}.tokens", self.verify) for part in self.parts}
        for file in self._files.values():
            check_fingerprint(self.tokenizer, file.fingerprint, file.path)
        self._rows = {part: self.make_rows(file) for part, file in self._files.items()}

    def rows(self, part: str) -> Rows:
        """The rows of "train", "val" or "test".

        Raises:
            ValueError: if there is no such part, or `setup` wasn't called.
        """
        if part not in self.parts:
            raise ValueError(f"there is no {part} data; set {part}_fraction above 0 or give {part}_source")
        if part not in self._rows:
            raise ValueError("the data isn't open; call prepare_data() and setup() first, as the Trainer does")
        return self._rows[part]

    def token_counts(self, part: str = TRAIN) -> Tensor:
        """How often each token occurs in a part, (vocab_size,) int64.

        Raises:
            ValueError: as `rows`.
        """
        self.rows(part)
        return torch.from_numpy(np.bincount(self._files[part].tokens, minlength=self.vocab_size))

    def train_dataloader(self) -> ResumableLoader:
        """Batches in an order that follows from seed and epoch, and that resumes in mid-epoch."""
        loader = training_loader(
            self.rows(TRAIN), self.batch_size, self.num_workers, self.seed, **shard_of(self.trainer)
        )
        loader.trainer = self.trainer
        self._training.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the processes of a training that stopped in mid-epoch."""
        while self._training:
            self._training.pop().stop()

    def val_dataloader(self) -> DataLoader[TokenBatch] | list[Any]:
        """Every row once, in order; nothing if there is no validation data."""
        return self._in_order(self.rows(VAL)) if VAL in self.parts else []

    def test_dataloader(self) -> DataLoader[TokenBatch]:
        """Every row once, in order."""
        return self._in_order(self.rows(TEST))

    def predict_dataloader(self) -> DataLoader[TokenBatch]:
        """Canvases made from the rows of the test data, or of the validation data if there is none."""
        rows = self.rows(TEST if TEST in self.parts else VAL)
        return self._in_order(self.make_canvases(rows.alone if isinstance(rows, PackedAnswers) else rows))

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's fingerprint, for the checkpoint."""
        return {"tokenizer": self.tokenizer.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another tokenizer."""
        check_fingerprint(self.tokenizer, state_dict["tokenizer"], "the checkpoint")

    def divided(self, source: Documents[Document]) -> Iterable[Document]:
        """What is dealt to the parts: documents, or pieces of them where they are too few."""
        return source

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Every document with the part it belongs to."""
        for part, source in self._sources().items():
            for document in told(self.divided(source) if part == TRAIN else source, _log):
                yield self._part_of(self.key(document)) if part == TRAIN else part, document

    def _sources(self) -> dict[str, Documents[Document]]:
        sources = {TRAIN: self.source, VAL: self.val_source, TEST: self.test_source}
        return {part: source for part, source in sources.items() if source is not None}

    @property
    def _shares(self) -> tuple[float, float]:
        """Shares of the source for validation and test."""
        own = self._sources()
        return 0.0 if VAL in own else self.val_fraction, 0.0 if TEST in own else self.test_fraction

    @cached_property
    def _keys_of_few(self) -> list[str]:
        """The keys of all documents of the source, if they are soon read; else nothing."""
        given = [self.key(document) for document in islice(self.divided(self.source), SOON_READ)]
        return given if len(given) < SOON_READ else []

    @cached_property
    def _held_out(self) -> dict[str, str]:
        return held_out(self._keys_of_few, *self._shares)

    def _part_of(self, key: str) -> str:
        return self._held_out.get(key) or part_of(key, *self._shares)

    def _build(self, folder: Path) -> None:
        self._check_parts()
        tokenizer = self._given_tokenizer
        if isinstance(tokenizer, TokenizerTraining):
            _log.info("training a tokenizer of %d tokens", tokenizer.vocab_size)
            training = (text for part, document in self.documents() if part == TRAIN for text in self.texts(document))
            tokenizer = tokenizer.train(training, folder)
        else:
            tokenizer.save(folder)
        size, fingerprint = tokenizer.vocab_size, tokenizer.fingerprint
        with ExitStack() as stack:
            writers = {part: TokenFileWriter(folder / f"{part}.tokens", size, fingerprint) for part in self.parts}
            for writer in writers.values():
                stack.enter_context(writer)
            self.write(writers, tokenizer)
            for part, writer in writers.items():
                if writer.num_documents == 0:
                    raise ValueError(nothing_for(part))
                _log.info("%s: %s tokens in %s documents", part, f"{writer.num_tokens:,}", f"{writer.num_documents:,}")
        (folder / "settings.json").write_text(json.dumps(self.settings(), indent=1))

    def _check_parts(self) -> None:
        """Find out before the work, which may take hours, whether a part stays empty: so few documents are soon read.

        Raises:
            ValueError: if one does.
        """
        for part in self._held_out.values():
            none = f"none of the {len(self._keys_of_few)} documents fell to the {part} data by its share"
            _log.warning("%s; one is held out for it. Give it a %s_source of its own, or more documents", none, part)
        if self._keys_of_few:
            found = {self._part_of(key) for key in self._keys_of_few} | {*self._sources()} - {TRAIN}
            for part in self.parts:
                if part not in found:
                    raise ValueError(nothing_for(part))

    def _in_order(self, rows: Rows | Canvases) -> DataLoader[TokenBatch]:
        return evaluation_loader(rows, self.batch_size, self.num_workers, **shard_of(self.trainer))
