"""A run of one row as data that can be sent: the canvas it begins with, and what each step changes."""

from collections.abc import Callable, Iterable
from typing import Any

from llada.viewers.frames import Frame


class Recording:
    """Turns frames into changes since the last one.

    Args:
        ids: the canvas before the first step, None where there is a mask.
        given: places that were never open.
        text: gives the text of a token.
    """

    def __init__(self, ids: Iterable[int | None], given: Iterable[bool], text: Callable[[int], str]) -> None:
        self.ids, self.given, self.text = list(ids), list(given), text

    def first(self) -> dict[str, Any]:
        """The canvas, which places are given, and the texts of its tokens."""
        texts = {token: self.text(token) for token in self.ids if token is not None}
        return {"canvas": list(self.ids), "given": self.given, "texts": texts}

    def step(self, frame: Frame) -> dict[str, Any]:
        """The places that a step changed, each as [place, token or None, text, confidence or None], and the calls."""
        changes: list[list[Any]] = []
        for place, token in enumerate(frame.ids):
            if token == self.ids[place] and not frame.changed[place]:
                continue
            self.ids[place] = token
            changes.append([place, token, "" if token is None else self.text(token), frame.confidence[place]])
        return {"changes": changes, "calls": frame.calls}
