r"""Lines of text files as they lie about: in UTF-8, with or without a byte order mark, plain or compressed.

Compression is told by a file's first bytes, not by its name. Lines end in "\\n" or "\\r\\n", and come with "\\n".
"""

import gzip
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive", b"BZh": "compressed by bzip2", b"\xfd7zXZ": "compressed by xz", b"%PDF": "a PDF",
    b"7z\xbc\xaf": "a 7z archive", _GZIP: "compressed by gzip twice",
}  # fmt: skip
_LOOK = 1024
"""Bytes of a file that are looked at: of a text, less than a tenth of them are zeros."""
_log = logging.getLogger(__name__)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file.

    Args:
        path: text in UTF-8, perhaps as gzip or Zstandard.

    Raises:
        ImportError: if the file is in Zstandard and no package reads it.
        ValueError: if it isn't UTF-8 text, or its compressed data are damaged; the message names file and line.
    """
    number = 0
    with _opened(path) as file:
        try:
            _check_text(path, file)
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield f"{text[:-2]}\n" if text.endswith("\r\n") else text
        except UnicodeDecodeError as error:
            where = f"{path}, line {number}, byte {error.start + 1}"
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} ({where}); convert it to UTF-8") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is truncated or damaged behind line {number}: {error}; fetch it again") from error


def skip_blank(files: Iterable[Path], documents: Any) -> Iterator[Any]:
    """What ``documents(path)`` yields for each file; files that yield nothing are counted in a warning.

    Raises:
        ValueError: if no file yields anything.
    """
    blank, total = [], 0
    for path in files:
        total += 1
        found = False
        for document in documents(path):
            found = True
            yield document
        if not found:
            blank.append(path)
    if blank and len(blank) == total:
        raise ValueError(f"{blank[0]} is empty" + (f", and so are {total - 1} other files" if total > 1 else ""))
    if blank:
        _log.warning("skipped %d of %d files, which are empty, such as %s", len(blank), total, blank[0])


def _check_text(path: Path, file: Any) -> None:
    """Refuse what is no text in UTF-8 by its first bytes.

    Raises:
        ValueError: naming what it seems to be.
    """
    start = file.peek(_LOOK)[:_LOOK]
    for marks, remedy in ((_OTHER_ENCODINGS, "convert it to UTF-8"), (_ARCHIVES, "unpack it")):
        found = next((name for mark, name in marks.items() if start.startswith(mark)), None)
        if found is not None:
            raise ValueError(f"{path} is not UTF-8 text: it is {'in ' * (marks is _OTHER_ENCODINGS)}{found}; {remedy}")
    if 10 * start.count(0) > len(start):
        raise ValueError(f"{path} is not UTF-8 text: it holds many zero bytes, as UTF-16 does; convert it to UTF-8")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        begin = raw.read(4)
        raw.seek(0)
        if begin == _PARQUET:
            raise ValueError(f"{path} is a Parquet file; read it by the source llada.data.ParquetFiles")
        if begin.startswith(_GZIP):
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
        elif begin == _ZSTD:
            with _zstandard(path, raw) as file:
                yield file
        else:
            yield raw


@contextmanager
def _zstandard(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            import zstandard as zstd
        except ImportError as error:
            raise ImportError(
                f"{path} is in Zstandard, which Python reads from 3.14 on, and earlier with the package zstandard: "
                "pip install 'llada[zstd]'"
            ) from error
    try:
        with zstd.open(raw, "rb") as file:
            yield io.BufferedReader(file)
    except zstd.ZstdError as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from error
