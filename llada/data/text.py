"""Text for pretraining: documents to packed rows of one length."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import override

from llada.data.datamodule import TokenDataModule
from llada.data.packing import AnswerRows, Canvases, TokenRows
from llada.data.pieces import FEW, are_few, cut_all
from llada.data.sources import Source
from llada.data.split import TEST, VAL, Documents
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining

_BATCH_CHARACTERS = 1 << 20
_log = logging.getLogger(__name__)


class TextDataModule(TokenDataModule[str]):
    """Documents, tokenised once into memory-mapped files and cut into rows of one length.

    Documents follow one another, each between BOS and EOS, and rows are cut where they fall; the last, incomplete row
    is left out. Documents without a character are skipped. Fewer than 50 documents, such as one large file, are cut
    into pieces at blank lines where a share of them is to be held out.

    Args:
        source: documents.
        tokenizer: a tokenizer, or how to train one on the training documents.
        max_length: L.
        batch_size: rows per batch and rank.
        separate_documents: whether the documents of a row are hidden from one another (``segment_ids``).
        add_bos: whether BOS stands before each document; None for the tokenizer's own rule (`Tokenizer.adds_bos`).
        add_eos: whether EOS stands after each document.
        val_source: see `TokenDataModule`.
        test_source: see `TokenDataModule`.
        val_fraction: see `TokenDataModule`.
        test_fraction: see `TokenDataModule`.
        cache_folder: where token files and tokenizer go, in a sub-folder per setting.
        num_workers: processes that load batches.
        seed: of the order of rows; the split doesn't depend on it.
        verify: whether the whole content of the token files is checked when they are opened; None for files of at most
            256 MiB, where it takes no time.

    Raises:
        ValueError: if the sizes or fractions are out of range.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import SentencePieceTraining, TextDataModule, TextFiles
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "own.txt").write_text("to be or not to be " * 20)
        ...     source, words = TextFiles(f"{folder}/*.txt"), SentencePieceTraining(280)
        ...     data = TextDataModule(source, words, max_length=8, batch_size=2, val_fraction=0.0, cache_folder=folder)
        ...     data.prepare_data()
        ...     data.setup("fit")
        ...     batch = next(iter(data.train_dataloader()))
        >>> batch["tokens"].shape, data.vocab_size, data.mask_token_id
        (torch.Size([2, 8]), 280, 4)
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer | TokenizerTraining,
        max_length: int,
        batch_size: int,
        separate_documents: bool = False,
        add_bos: bool | None = None,
        add_eos: bool = True,
        val_source: Source | None = None,
        test_source: Source | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        cache_folder: str = "token_cache",
        num_workers: int = 0,
        seed: int = 0,
        verify: bool | None = None,
    ) -> None:
        super().__init__(
            source=source,
            tokenizer=tokenizer,
            cache_folder=cache_folder,
            batch_size=batch_size,
            val_source=val_source,
            test_source=test_source,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            num_workers=num_workers,
            seed=seed,
        )
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more; got {max_length}")
        self.verify = verify
        self.max_length, self.separate_documents = max_length, separate_documents
        self.add_bos, self.add_eos = add_bos, add_eos
        self._cut_is_told = False

    @property
    def val_bytes_per_token(self) -> float:
        """UTF-8 bytes of the validation text per token (BOS and EOS are tokens), for bits per byte."""
        self.rows(VAL)
        return self._files[VAL].bytes_per_token

    @property
    def test_bytes_per_token(self) -> float:
        """As `val_bytes_per_token`, of the test text."""
        self.rows(TEST)
        return self._files[TEST].bytes_per_token

    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "add_bos": self.add_bos, "add_eos": self.add_eos}

    @override
    def divided(self, source: Documents[str]) -> Iterable[str]:
        wanted = {part for part in (VAL, TEST) if part in self.parts and part not in self._sources()}
        if not wanted or not are_few(source):
            return source
        if not self._cut_is_told:
            _log.info("fewer than %d documents are cut into pieces, so that a share of them can be held out", FEW)
            self._cut_is_told = True
        return cut_all(source)

    def key(self, document: str) -> str:
        """The document itself."""
        return document

    def texts(self, document: str) -> Iterable[str]:
        """The document itself."""
        return [document]

    @override
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        begins = tokenizer.adds_bos if self.add_bos is None else self.add_bos
        before = [tokenizer.special_id("bos")] if begins else []
        after = [tokenizer.special_id("eos")] if self.add_eos else []
        for batch in _in_batches(self.documents()):
            encoded = tokenizer.encode_batch([text for _, text in batch])
            for (part, text), ids in zip(batch, encoded, strict=True):
                writers[part].add([*before, *ids, *after], num_bytes=len(text.encode()))

    @override
    def make_rows(self, file: TokenFile) -> TokenRows:
        return TokenRows(file, self.max_length, self.separate_documents)

    def make_canvases(self, rows: TokenRows | AnswerRows) -> Canvases:
        """Rows whose second half is to be written."""
        return Canvases(rows, self.mask_token_id, visible=self.max_length // 2)


def _in_batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Groups of documents of about a megabyte, on which a tokenizer can work in parallel."""
    group: list[tuple[str, str]] = []
    size = 0
    for part, text in documents:
        if text:
            group.append((part, text))
            size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
