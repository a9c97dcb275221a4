"""Token ids of a whole corpus in one memory-mapped file, documents kept apart.

Layout, little-endian:

    4096 bytes   "LLADATOK", length of the JSON (uint32), its CRC-32 (uint32), JSON, zeros
    tokens       num_tokens of uint16, or of uint32 where the vocabulary doesn't fit
    zeros        to a multiple of 8
    offsets      num_documents + 1 of int64: document d is tokens[offsets[d] : offsets[d + 1]]

The file is written as a stream beside its final name and renamed when it is complete, so a name never stands for half a
corpus, and a run that fails leaves the old file as it was.
"""

import json
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from llada.files.atomic import replacing
from llada.files.json_object import parse_object

MAGIC = b"LLADATOK"
VERSION = 1
HEADER_BYTES = 4096


class TokenFile:
    """A token file, opened for reading.

    Args:
        path: the file.

    Attributes:
        tokens: (num_tokens,) uint16 or uint32, mapped from disk.
        offsets: (num_documents + 1,) int64, mapped from disk.
        vocab_size: number of ids that the tokenizer has.
        num_bytes: length of the text in UTF-8.
        fingerprint: SHA-256 of the tokenizer with which the file was made.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a token file, is truncated or damaged, or comes from a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        header = _read_header(self.path)
        self.vocab_size: int = header["vocab_size"]
        self.num_bytes: int = header["num_bytes"]
        self.fingerprint: str = header["fingerprint"]
        dtype = np.dtype(header["dtype"]).newbyteorder("<")
        num_tokens, num_documents = header["num_tokens"], header["num_documents"]
        tokens_end = _aligned(HEADER_BYTES + num_tokens * dtype.itemsize)
        expected, found = tokens_end + 8 * (num_documents + 1), self.path.stat().st_size
        if found != expected:
            raise ValueError(f"{self.path} is truncated or damaged: {found} bytes instead of {expected}; make it again")
        self.tokens = _map(self.path, dtype, HEADER_BYTES, num_tokens)
        self.offsets = _map(self.path, np.dtype("<i8"), tokens_end, num_documents + 1)
        if self.offsets[0] != 0 or self.offsets[-1] != num_tokens:
            raise ValueError(
                f"{self.path} is damaged: its documents don't add up to {num_tokens} tokens; make it again"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self.tokens)

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

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        # A memory map pickles as its whole content: let a worker process open the file itself.
        return type(self), (self.path,)


class TokenFileWriter:
    """Writes a token file document by document; a context manager.

    The file appears when the context ends without an error, and replaces an older one.

    Args:
        path: file to be written.
        vocab_size: ids are in 0..vocab_size-1.
        fingerprint: SHA-256 of the tokenizer with which the file was made.

    Raises:
        ValueError: if ``vocab_size`` isn't positive or doesn't fit 32 bits.
    """

    def __init__(self, path: str | Path, vocab_size: int, fingerprint: str) -> None:
        if not 0 < vocab_size <= 1 << 32:
            raise ValueError(f"vocab_size must be in 1..2**32; got {vocab_size}")
        self.path, self.vocab_size, self.fingerprint = Path(path), vocab_size, fingerprint
        self.num_tokens = self.num_documents = self.num_bytes = 0
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
        self._file.write(array.astype(self._dtype).tobytes())
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
        file.write(bytes(_aligned(end) - end))
        offsets.seek(0)
        shutil.copyfileobj(offsets, file)
        file.seek(0)
        file.write(
            _header(
                version=VERSION,
                dtype=self._dtype.name,
                vocab_size=self.vocab_size,
                num_tokens=self.num_tokens,
                num_documents=self.num_documents,
                num_bytes=self.num_bytes,
                fingerprint=self.fingerprint,
            )
        )


def _aligned(position: int) -> int:
    return -(-position // 8) * 8


def _map(path: Path, dtype: np.dtype[Any], start: int, count: int) -> NDArray[Any]:
    if count == 0:  # an empty map is an error to the operating system
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(count,))


def _header(**fields: str | int) -> bytes:
    content = json.dumps(fields).encode()
    sizes = len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little")
    return (MAGIC + sizes + content).ljust(HEADER_BYTES, b"\0")


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no token file {path}")
    with path.open("rb") as file:
        block = file.read(HEADER_BYTES)
    if block[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a token file: it doesn't begin with {MAGIC.decode()}")
    content = block[16 : 16 + int.from_bytes(block[8:12], "little")]
    if len(block) != HEADER_BYTES or zlib.crc32(content) != int.from_bytes(block[12:16], "little"):
        raise ValueError(f"{path} is truncated or damaged: its header is broken; make it again")
    header = parse_object(content, path)
    if header["version"] != VERSION:
        raise ValueError(f"{path} has format {header['version']}, but this version reads {VERSION}; update llada")
    return header
