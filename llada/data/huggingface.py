"""Data sets of the Hugging Face hub, or in its formats on disk (extra ``hf``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from llada.data.sources import RecordSource, describe_files


@dataclass(frozen=True)
class HuggingFaceDataset(RecordSource):
    """A data set for ``datasets.load_dataset``.

    Args:
        path: name on the hub, a folder, or a format ("json", "csv", "parquet", "text") with ``data_files``.
        split: such as "train" or "train[:1%]".
        field: which column is the document.
        name: configuration of the data set.
        data_files: local files for a format.
        revision: branch, tag or commit on the hub; name a commit for results that can be repeated.
        streaming: whether to read as it downloads, instead of downloading first.

    Raises:
        ImportError: at the first iteration, if ``datasets`` isn't installed.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import HuggingFaceDataset
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "stories.jsonl").write_text('{"story": "It rained."}')
        ...     file = f"{folder}/stories.jsonl"
        ...     source = HuggingFaceDataset("json", field="story", data_files=file, streaming=True)
        ...     list(source)
        ['It rained.']
    """

    path: str
    split: str = "train"
    field: str = "text"
    name: str | None = None
    data_files: str | list[str] | None = None
    revision: str | None = None
    streaming: bool = False

    @override
    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError("Hugging Face data sets need the package datasets: pip install llada[hf]") from error
        dataset = load_dataset(
            self.path,
            name=self.name,
            split=self.split,
            data_files=self.data_files,
            revision=self.revision,
            streaming=self.streaming,
        )
        for number, record in enumerate(dataset):
            yield f"{self.path} ({self.split}), record {number}", dict(record)

    def fingerprint(self) -> str:
        """Settings, and the local files if there are any."""
        return repr(self) if self.data_files is None else f"{self!r} {describe_files(self.data_files)}"
