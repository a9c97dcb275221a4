"""A long reading that says how far it is."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_SECONDS = 8.0
"""Between two lines."""
_T = TypeVar("_T")


def told(documents: Iterable[_T], log: logging.Logger) -> Iterator[_T]:
    """The documents; now and then it is logged how many there were.

    Args:
        documents: any.
        log: where that is said.
    """
    said = time.monotonic()
    for number, document in enumerate(documents, start=1):
        if time.monotonic() - said >= _SECONDS:
            said = time.monotonic()
            log.info("%s documents read so far", f"{number:,}")
        yield document
