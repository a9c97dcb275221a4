"""Which documents are for training, validation and test.

A hash of the text decides: no copy of a document is on the other side, runs with other seeds validate on the same text,
and a document stays where it is when others are added.
"""

import hashlib
from collections.abc import Iterator
from typing import Protocol, TypeVar

TRAIN, VAL, TEST = "train", "val", "test"
SOON_READ = 500
"""Documents; of as many, a share of five per cent is none with probability 7e-12."""
Document_co = TypeVar("Document_co", covariant=True)


class Documents(Protocol[Document_co]):
    """What a data module reads: a `Source` or a `ConversationSource`."""

    def __iter__(self) -> Iterator[Document_co]: ...
    def fingerprint(self) -> str: ...  # noqa: D102


def part_of(key: str, val_fraction: float, test_fraction: float) -> str:
    """The part that a document belongs to.

    Args:
        key: what decides, such as the text.
        val_fraction: share for validation.
        test_fraction: share for the test.
    """
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "little") / 2.0**64
    if place < val_fraction:
        return VAL
    return TEST if test_fraction > 0 and place >= 1.0 - test_fraction else TRAIN


def nothing_for(part: str) -> str:
    """What is to be said where no document fell to a part."""
    other = "" if part == TRAIN else f", or documents of its own ({part}_source), or none ({part}_fraction=0)"
    return f"no document fell to the {part} data; give more documents, or a larger share{other}"
