"""Parquet files, read in pieces (extra ``hf``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from llada.data.reading import skip_blank
from llada.data.sources import RecordSource, describe_files, find_files


@dataclass(frozen=True)
class ParquetFiles(RecordSource):
    """Parquet files: one record per row, with a column for each field.

    Args:
        paths: file or files, wildcards as in `TextFiles`.
        field: which column is the document.

    Raises:
        ImportError: at the first iteration, if ``pyarrow`` isn't installed.
        ValueError: at the first iteration, if a file isn't in Parquet, or is damaged.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import pyarrow
        >>> from pyarrow.parquet import write_table
        >>> from llada.data import ParquetFiles
        >>> with TemporaryDirectory() as folder:
        ...     write_table(pyarrow.table({"story": ["It rained.", "It snowed."]}), f"{folder}/stories.parquet")
        ...     list(ParquetFiles(f"{folder}/*.parquet", field="story"))
        ['It rained.', 'It snowed.']
    """

    paths: str | list[str]
    field: str = "text"

    @override
    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise ImportError("Parquet files need the package pyarrow: pip install 'llada[hf]'") from error

        def rows(path: Any) -> Iterator[tuple[str, dict[str, Any]]]:
            try:
                number = 0
                with parquet.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=1024):
                        for record in batch.to_pylist():
                            number += 1
                            yield f"{path}, record {number}", record
            except (ArrowException, OSError) as error:
                raise ValueError(f"{path} can't be read as Parquet: {error}") from error

        yield from skip_blank(find_files(self.paths), rows)

    def fingerprint(self) -> str:
        """Settings, and names, sizes and times of the files."""
        return f"{self!r} {describe_files(self.paths)}"
