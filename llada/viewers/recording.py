"""A run of one row as data that can be sent: the canvas it begins with, and what each step changes."""

from collections.abc import Callable, Iterable
from typing import Any

from llada.viewers.frames import Frame

_NEW = -1  # no token


class Recording:
    """Turns frames into changes since the last one.

    Args:
        ids: the canvas before the first step, None where there is a mask.
        given: places that were never open.
        text: gives the text of a token.

    Examples:
        >>> from llada.viewers import Frame, Recording
        >>> recording = Recording([4, None], given=[True, False], text=str)
        >>> recording.first()["canvas"]
        [4, None]
        >>> recording.step(Frame([4, 7], changed=[False, True], confidence=[None, 0.9], calls=1, given=[True, False]))
        {'changes': [[1, 7, '7', 0.9]], 'calls': 1}
    """

    def __init__(self, ids: Iterable[int | None], given: Iterable[bool], text: Callable[[int], str]) -> None:
        self.ids, self.given, self.text = list(ids), list(given), text

    def first(self) -> dict[str, Any]:
        """The canvas, which places are given, and the texts of its tokens."""
        texts = {token: self.text(token) for token in self.ids if token is not None}
        return {"canvas": list(self.ids), "given": self.given, "texts": texts}

    def step(self, frame: Frame) -> dict[str, Any]:
        """What a step changes.

        Returns:
            ``changes``, each [place, token or None, text, confidence or None], and the ``calls``. Where tokens moved,
            ``source`` comes first: the place before of each, -1 for those that are new.
        """
        known: list[int | None] = list(self.ids)
        if frame.source is not None:
            known = [_NEW if place < 0 else self.ids[place] for place in frame.source]
        changes: list[list[Any]] = []
        for place, token in enumerate(frame.ids):
            if token == known[place] and not frame.changed[place]:
                continue
            changes.append([place, token, "" if token is None else self.text(token), frame.confidence[place]])
        self.ids = list(frame.ids)
        moved = {} if frame.source is None else {"source": frame.source}
        return {**moved, "changes": changes, "calls": frame.calls}
