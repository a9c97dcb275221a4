"""Which documents are for training, validation and test.

A hash of the text decides: no copy of a document is on the other side, runs with other seeds validate on the same text,
and a document stays where it is when others are added; the one that is held out of very few may go back.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

TRAIN, VAL, TEST = "train", "val", "test"
SOON_READ = 500
"""Documents; of as many, a share of five per cent is none with probability 7e-12."""
Document_co = TypeVar("Document_co", covariant=True)


@runtime_checkable
class Documents(Protocol[Document_co]):
    """What a data module reads, such as a `DocumentSource`."""

    def __iter__(self) -> Iterator[Document_co]: ...
    def fingerprint(self) -> str: ...  # noqa: D102


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Whether shares can be held out.

    Raises:
        ValueError: if one is below 0, or they leave nothing for training.
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        shares = f"val_fraction={val_fraction} and test_fraction={test_fraction}"
        raise ValueError(f"{shares} must be 0 or more and leave something for training")


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


def held_out(keys: Iterable[str], val_fraction: float, test_fraction: float) -> dict[str, str]:
    """The documents that are held out where they are so few that a share of them is none: key -> part.

    A part that would stay empty gets the document that the smallest larger share would give it, unless the training
    would be left with none. Of more documents than `SOON_READ` this isn't asked, so no document changes its side then.

    Args:
        keys: of all documents.
        val_fraction: share for validation.
        test_fraction: share for the test.
    """
    parts = {key: part_of(key, val_fraction, test_fraction) for key in keys}
    found: dict[str, str] = {}
    for part, share, nearest in ((VAL, val_fraction, min), (TEST, test_fraction, max)):
        training = [key for key, own in parts.items() if own == TRAIN and key not in found]
        if share > 0 and part not in parts.values() and len(training) > 1:
            found[nearest(training, key=_place)] = part
    return found


def nothing_for(part: str) -> str:
    """What is to be said where no document fell to a part.

    Args:
        part: of the data.
    """
    if part == TRAIN:
        return f"no document fell to the {part} data; give more documents, or a smaller share to the others"
    other = f"documents of its own ({part}_source), or none ({part}_fraction=0)"
    return f"no document fell to the {part} data; give more documents, {other}"


def _place(key: str) -> float:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") / 2.0**64
