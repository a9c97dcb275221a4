"""Which documents are for training, validation and test.

A hash of the text decides: no copy of a document is on the other side, runs with other seeds validate on the same text,
and a document stays where it is when others are added.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

TRAIN, VAL, TEST = "train", "val", "test"
SOON_READ = 500
"""Documents; of as many, a share of five per cent is none with probability 7e-12."""
Document_co = TypeVar("Document_co", covariant=True)


class Documents(Protocol[Document_co]):
    """What a data module reads, such as a `DocumentSource`."""

    def __iter__(self) -> Iterator[Document_co]: ...
    def fingerprint(self) -> str: ...  # noqa: D102


def part_of(key: str, val_fraction: float, test_fraction: float) -> str:
    """The part that a document belongs to.

    Args:
        key: what decides, such as the text.
        val_fraction: share for validation.
        test_fraction: share for the test.
    """
    place = _place(key)
    if place < val_fraction:
        return VAL
    return TEST if test_fraction > 0 and place >= 1.0 - test_fraction else TRAIN


def nothing_for(part: str, keys: Iterable[str] = ()) -> str:
    """What is to be said where no document fell to a part.

    Args:
        part: of the data.
        keys: of all documents, where they are few: the share is named that would give the part one of them.
    """
    if part == TRAIN:
        return f"no document fell to the {part} data; give more documents, or a smaller share to the others"
    needed = min((_place(key) if part == VAL else 1.0 - _place(key) for key in keys), default=1.0)
    share = (
        f"a larger share ({part}_fraction={math.ceil(needed * 100 + 1e-9) / 100:g} would do)" if needed < 0.5 else ""
    )
    other = f"documents of its own ({part}_source), or none ({part}_fraction=0)"
    return f"no document fell to the {part} data; give more documents, {share or 'a larger share'}, {other}"


def _place(key: str) -> float:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") / 2.0**64
