"""Where text comes from: objects that yield documents, as often as they are iterated over."""

import glob
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from typing_extensions import override

from llada.data.reading import read_lines, skip_blank
from llada.data.split import Document_co
from llada.files.json_object import parse_object


class DocumentSource(ABC, Generic[Document_co]):
    """Documents of one kind, in the same order at every iteration."""

    @abstractmethod
    def __iter__(self) -> Iterator[Document_co]:
        """Yield one document after the other.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file or record is malformed, with file and line, or all are empty.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes if the documents do; caches are looked up by it."""


class Source(DocumentSource[str]):
    """Texts."""

    @override
    def fingerprint(self) -> str:
        return repr(self)


class RecordSource(Source):
    """Records with named fields; as documents it yields one of the fields."""

    field: str

    @abstractmethod
    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield records, each with the place it was found at ("chats.jsonl, line 3")."""

    def __iter__(self) -> Iterator[str]:
        for where, record in self.records():
            yield text_field(record, self.field, where)


@dataclass(frozen=True)
class TextFiles(Source):
    """Plain text files in UTF-8, also compressed as gzip or Zstandard.

    Files without text are skipped, and counted in a warning.

    Args:
        paths: file or files; wildcards as in "stories/*.txt" are filled in, in alphabetical order.
        split_on_blank_lines: whether every paragraph is a document, instead of every file.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import TextFiles
        >>> with TemporaryDirectory() as folder:
        ...     for number in (2, 1):
        ...         size = Path(folder, f"story{number}.txt").write_text(f"The boat {number}.")
        ...     list(TextFiles(f"{folder}/*.txt"))
        ['The boat 1.', 'The boat 2.']
    """

    paths: str | list[str]
    split_on_blank_lines: bool = False

    def __iter__(self) -> Iterator[str]:
        yield from skip_blank(find_files(self.paths), self._documents)

    def _documents(self, path: Path) -> Iterator[str]:
        documents = _paragraphs(path) if self.split_on_blank_lines else _whole(path)
        yield from (document for document in documents if document.strip())

    def fingerprint(self) -> str:
        """Settings, and names, sizes and times of the files."""
        return f"{self!r} {describe_files(self.paths)}"


@dataclass(frozen=True)
class JsonLines(RecordSource):
    """JSON Lines files: one JSON object per line, also compressed as gzip or Zstandard.

    Files without a record are skipped, and counted in a warning.

    Args:
        paths: file or files, wildcards as in `TextFiles`.
        field: which entry of an object is the document.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "stories.jsonl").write_text('{"story": "It rained.", "year": 1902}')
        ...     lines = JsonLines(f"{folder}/stories.jsonl", field="story")
        ...     list(lines), [record["year"] for where, record in lines.records()]
        (['It rained.'], [1902])
    """

    paths: str | list[str]
    field: str = "text"

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """A record per line of the files; blank lines are skipped."""
        yield from skip_blank(find_files(self.paths), _objects)

    def fingerprint(self) -> str:
        """Settings, and names, sizes and times of the files."""
        return f"{self!r} {describe_files(self.paths)}"


def find_files(paths: str | list[str]) -> list[Path]:
    """The files that paths with wildcards stand for.

    Raises:
        FileNotFoundError: if a path stands for none.
    """
    found: list[Path] = []
    for pattern in [paths] if isinstance(paths, str) else paths:
        # A file may have brackets or stars in its name: try the plain reading first.
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise FileNotFoundError(f"there is no file {pattern}")
        found.extend(files)
    if not found:
        raise FileNotFoundError("no files were named: paths is empty")
    return found


def describe_files(paths: str | list[str]) -> str:
    """A short text that changes if one of the files is replaced or edited."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in find_files(paths)]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def text_field(record: dict[str, Any], field: str, where: str) -> str:
    """A text entry of a record.

    Raises:
        ValueError: if it is missing or isn't text.
    """
    if field not in record:
        raise ValueError(f"{where}: there is no field {field!r}, only {', '.join(map(repr, record)) or 'nothing'}")
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f"{where}: field {field!r} must be text; got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise ValueError(
            f"{where}: field {field!r} holds half of a character, {half}; was it cut behind an escape?"
        ) from error
    return text


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                record = parse_object(line.rstrip(), where)
            except ValueError as error:
                if number == 1 and (line[0] == "[" or line.strip() == "{"):
                    raise ValueError(
                        f"{error}. The file seems to be one JSON document; write an object per line, such as by "
                        f"jq -c '{'.[]' if line[0] == '[' else '.'}' {path}"
                    ) from error
                raise
            yield where, record


def _whole(path: Path) -> Iterator[str]:
    yield "".join(read_lines(path))


def _paragraphs(path: Path) -> Iterator[str]:
    """Runs of lines between blank ones, without the last line's end."""
    paragraph: list[str] = []
    for line in read_lines(path):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\r\n")
            paragraph = []
    if paragraph:
        yield "".join(paragraph).rstrip("\r\n")
