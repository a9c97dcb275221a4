"""The first 4096 bytes of a token file: what it holds, and a checksum of all that follows."""

import json
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

from llada.files.json_object import parse_object

MAGIC = b"LLADATOK"
VERSION = 1
HEADER_BYTES = 4096
_CHUNK = 1 << 22
_TYPES = ("uint16", "uint32")


class Header(NamedTuple):
    """What a header says.

    Attributes:
        dtype: of the tokens, "uint16" or "uint32".
        vocab_size: number of ids that the tokenizer has.
        num_tokens: tokens of all documents.
        num_documents: documents, empty ones included.
        num_bytes: length of the text in UTF-8.
        fingerprint: SHA-256 of the tokenizer.
        checksum: CRC-32 of what follows the header; None in files of versions that wrote none.
    """

    dtype: str
    vocab_size: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    fingerprint: str
    checksum: int | None


def damaged(path: Path, reason: str) -> ValueError:
    """The error for a file that isn't what was written."""
    return ValueError(f"{path} is truncated or damaged: {reason}; delete its folder, and it is made again")


def header_block(header: Header) -> bytes:
    """A header as it stands in the file."""
    content = json.dumps({"version": VERSION, **header._asdict()}).encode()
    sizes = len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little")
    return (MAGIC + sizes + content).ljust(HEADER_BYTES, b"\0")


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a token file, its header is damaged or no header of ours, or of a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no token file {path}; delete its folder, and it is made again")
    with path.open("rb") as file:
        block = file.read(HEADER_BYTES)
    if block[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a token file: it doesn't begin with {MAGIC.decode()}")
    content = block[16 : 16 + int.from_bytes(block[8:12], "little")]
    if len(block) != HEADER_BYTES or zlib.crc32(content) != int.from_bytes(block[12:16], "little"):
        raise damaged(path, "its header is broken")
    fields = parse_object(content, path)
    version = fields.get("version")
    if type(version) is int and version > VERSION:
        raise ValueError(f"{path} has format {version}, but this version reads {VERSION}; update llada")
    return _checked(fields, path)


def checksum_of(file: IO[bytes]) -> int:
    """CRC-32 of all that follows the header."""
    value = 0
    file.seek(HEADER_BYTES)
    while chunk := file.read(_CHUNK):
        value = zlib.crc32(chunk, value)
    return value


def _checked(fields: dict[str, Any], path: Path) -> Header:
    """A header whose every field is of its kind and in its range."""

    def number(name: str, least: int, most: int) -> int:
        value = fields.get(name)
        if type(value) is not int or not least <= value <= most:
            raise damaged(path, f"its header says {name}={value!r}, which must be an integer in {least}..{most}")
        return value

    number("version", VERSION, VERSION)
    dtype, fingerprint = fields.get("dtype"), fields.get("fingerprint")
    if dtype not in _TYPES:
        raise damaged(path, f"its header says dtype={dtype!r}, which must be {' or '.join(_TYPES)}")
    if not isinstance(fingerprint, str):
        raise damaged(path, f"its header says fingerprint={fingerprint!r}, which must be text")
    num_tokens, num_documents, num_bytes = (
        number(name, 0, 1 << 60) for name in ("num_tokens", "num_documents", "num_bytes")
    )
    checksum = None if fields.get("checksum") is None else number("checksum", 0, (1 << 32) - 1)
    vocab_size = number("vocab_size", 1, 1 << (16 if dtype == "uint16" else 32))
    return Header(dtype, vocab_size, num_tokens, num_documents, num_bytes, fingerprint, checksum)
