"""A few long texts cut into many pieces, so that a share of them can be held out.

One file is one document, and whoever splits documents can't split it. Pieces end at a blank line if there is one near,
else at a line's end, else at a space; joined, they are the text again.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

FEW = 50
"""Fewer documents than this are cut: of 50, five per cent is none in 1 of 13 cases."""
_PIECES = 400
_SMALLEST, _LARGEST = 256, 1 << 14


def are_few(source: Iterable[str]) -> bool:
    """Whether a source has fewer than `FEW` documents; reads no more than it must."""
    return sum(1 for _ in islice(source, FEW)) < FEW


def cut_all(source: Iterable[str]) -> Iterator[str]:
    """The documents of a source in some 400 pieces, of 256 to 16,384 characters each (up to twice that)."""
    size = min(max(sum(map(len, source)) // _PIECES, _SMALLEST), _LARGEST)
    for document in source:
        yield from cut(document, size)


def cut(text: str, size: int) -> Iterator[str]:
    """A text in pieces of ``size`` characters or up to twice as many.

    Args:
        text: to be cut.
        size: the least of a piece that isn't the last.
    """
    start = 0
    while len(text) - start > 2 * size:
        first, last = start + size, start + 2 * size
        for mark in ("\n\n", "\n", " "):
            place = text.find(mark, first, last + len(mark) - 1)
            if place >= 0:
                end = place + len(mark)
                break
        else:
            end = first
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
