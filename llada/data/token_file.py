"""Token ids of a whole corpus in one memory-mapped file, documents kept apart.

Layout, little-endian:

    4096 bytes   "LLADATOK", length of the JSON (uint32), its CRC-32 (uint32), JSON, zeros; see `token_header`
    tokens       num_tokens of uint16, or of uint32 where the vocabulary doesn't fit
    zeros        to a multiple of 8
    offsets      num_documents + 1 of int64: document d is tokens[offsets[d] : offsets[d + 1]]

The file is written as a stream beside its final name and renamed when it is complete, so a name never stands for half a
corpus, and a run that fails leaves the old file as it was.
"""

import os
import tempfile
import weakref
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from llada.data.token_header import HEADER_BYTES, Header, checksum_of, damaged, header_block, read_header
from llada.files.atomic import replacing

CHEAP_BYTES = 1 << 28
"""Size of a file up to which its content is checked whenever it is opened, in about a quarter of a second."""


class TokenFile:
    """A token file, opened for reading.

    Args:
        path: the file.
        verify: whether its whole content is read and checked: the checksum, that ids are in the vocabulary and that
            documents follow one another. None: where that takes no time, in files of at most 256 MiB. Files of versions
            that wrote no checksum have the other checks.

    Attributes:
        offsets: (num_documents + 1,) int64, mapped from disk.
        vocab_size: number of ids that the tokenizer has.
        num_bytes: length of the text in UTF-8.
        fingerprint: SHA-256 of the tokenizer with which the file was made.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a token file, is truncated or damaged, or comes from a newer version.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import TokenFile, TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         writer.add([5, 6, 7], num_bytes=12)
        ...         writer.add([8], num_bytes=4)
        ...     file = TokenFile(writer.path)
        >>> file.num_documents, file.document(0).tolist(), file.tokens.dtype.name, file.bytes_per_token
        (2, [5, 6, 7], 'uint16', 4.0)
    """

    def __init__(self, path: str | Path, verify: bool | None = None) -> None:
        self.path = Path(path)
        header = read_header(self.path)
        self.vocab_size, self.num_bytes, self.fingerprint = header.vocab_size, header.num_bytes, header.fingerprint
        dtype = np.dtype(header.dtype).newbyteorder("<")
        self._num_tokens, num_documents = header.num_tokens, header.num_documents
        tokens_end = _aligned(HEADER_BYTES + self._num_tokens * dtype.itemsize)
        self._size = tokens_end + 8 * (num_documents + 1)
        # The open file knows its size also where its name is gone.
        self._file = self.path.open("rb")
        weakref.finalize(self, self._file.close)
        self._check_size()
        self._tokens = _map(self._file, dtype, HEADER_BYTES, self._num_tokens)
        self.offsets = _map(self._file, np.dtype("<i8"), tokens_end, num_documents + 1)
        if self.offsets[0] != 0 or self.offsets[-1] != self._num_tokens:
            raise damaged(self.path, f"its documents don't add up to {self._num_tokens} tokens")
        if verify or (verify is None and self._size <= CHEAP_BYTES):
            self._verify(header.checksum)

    @property
    def tokens(self) -> NDArray[Any]:
        """(num_tokens,) uint16 or uint32, mapped from disk.

        Raises:
            ValueError: if the file has been cut since it was opened; to read from it would end the process.
        """
        self._check_size()
        return self._tokens

    def _check_size(self) -> None:
        if (found := os.fstat(self._file.fileno()).st_size) != self._size:
            raise damaged(self.path, f"{found} bytes instead of {self._size}")

    def _verify(self, checksum: int | None) -> None:
        if checksum is not None and checksum_of(self._file) != checksum:
            raise damaged(self.path, "its content doesn't have the checksum that it was written with")
        if len(self._tokens) and (largest := int(self._tokens.max())) >= self.vocab_size:
            raise damaged(self.path, f"it holds the token id {largest}, outside 0..{self.vocab_size - 1}")
        if (self.offsets[1:] < self.offsets[:-1]).any():
            raise damaged(self.path, "a document ends before it begins")

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return self._num_tokens

    @property
    def num_documents(self) -> int:
        """Documents, empty ones included."""
        return len(self.offsets) - 1

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token, special tokens counted as tokens; NaN for an empty file."""
        return self.num_bytes / self.num_tokens if self.num_tokens else float("nan")

    def document(self, index: int) -> NDArray[Any]:
        """Tokens of one document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path, bool]]:
        # A memory map pickles as its whole content: let a worker process open the file itself, which has been checked.
        return type(self), (self.path, False)


class TokenFileWriter:
    """Writes a token file document by document; a context manager.

    The file appears when the context ends without an error, and replaces an older one.

    Args:
        path: file to be written.
        vocab_size: ids are in 0..vocab_size-1.
        fingerprint: SHA-256 of the tokenizer with which the file was made.

    Raises:
        ValueError: if ``vocab_size`` isn't positive or doesn't fit 32 bits.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         writer.add([5, 6, 7])
        ...         writer.path.exists()  # it appears whole or not at all
        ...     writer.path.exists(), writer.num_tokens
        False
        (True, 3)
    """

    def __init__(self, path: str | Path, vocab_size: int, fingerprint: str) -> None:
        if not 0 < vocab_size <= 1 << 32:
            raise ValueError(f"vocab_size must be in 1..2**32; got {vocab_size}")
        self.path, self.vocab_size, self.fingerprint = Path(path), vocab_size, fingerprint
        self.num_tokens = self.num_documents = self.num_bytes = self._checksum = 0
        self._dtype = np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._offsets: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._file = stack.enter_context(replacing(self.path))
            self._file.write(bytes(HEADER_BYTES))
            # Offsets come last in the file, but are known as documents come: keep them in a nameless file until then.
            self._offsets = stack.enter_context(tempfile.TemporaryFile(dir=self.path.parent, buffering=1 << 16))
            self._offsets.write(bytes(8))
            stack.push(self._finish)  # before the files are closed and the new one gets its name
            self._stack = stack.pop_all()
        return self

    def add(self, tokens: Sequence[int] | NDArray[Any], num_bytes: int = 0) -> None:
        """Append a document.

        Args:
            tokens: its token ids, special ones included.
            num_bytes: length of its text in UTF-8.

        Raises:
            ValueError: if an id is out of range, or the tokens aren't integers.
        """
        assert self._file is not None, "add() belongs inside the with block"
        assert self._offsets is not None
        array = np.asarray(tokens, dtype=np.int64 if len(tokens) == 0 else None)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"document {self.num_documents}: tokens must be integers; got {array.dtype} {array.shape}")
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            outside = array[(array < 0) | (array >= self.vocab_size)][0]
            raise ValueError(
                f"document {self.num_documents}: token id {outside} is outside 0..{self.vocab_size - 1}; "
                "does the text come from another tokenizer?"
            )
        self._put(array.astype(self._dtype).tobytes())
        self.num_tokens += array.size
        self.num_documents += 1
        self.num_bytes += num_bytes
        self._offsets.write(self.num_tokens.to_bytes(8, "little"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what comes behind the documents, and the header, unless the block has failed."""
        if kind is not None:
            return
        file, offsets = self._file, self._offsets
        assert file is not None
        assert offsets is not None
        end = HEADER_BYTES + self.num_tokens * self._dtype.itemsize
        self._put(bytes(_aligned(end) - end))
        offsets.seek(0)
        while chunk := offsets.read(1 << 20):
            self._put(chunk)
        file.seek(0)
        header = Header(
            dtype=self._dtype.name,
            vocab_size=self.vocab_size,
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_bytes=self.num_bytes,
            fingerprint=self.fingerprint,
            checksum=self._checksum,
        )
        file.write(header_block(header))

    def _put(self, content: bytes) -> None:
        assert self._file is not None
        self._file.write(content)
        self._checksum = zlib.crc32(content, self._checksum)


def _aligned(position: int) -> int:
    return -(-position // 8) * 8


def _map(file: IO[bytes], dtype: np.dtype[Any], start: int, count: int) -> NDArray[Any]:
    if count == 0:  # an empty map is an error to the operating system
        return np.empty(0, dtype)
    return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=(count,))
