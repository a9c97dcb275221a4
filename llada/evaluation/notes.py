"""What an evaluation had to change or leave out, counted, so that a score says what it was measured on."""

import logging
from typing import Any

_EXAMPLES = 5
_log = logging.getLogger(__name__)


class Notes:
    """Counts by kind, each with the names of the first rows.

    Args:
        strict: whether a note is an error instead.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, row: str) -> None:
        """Count a row.

        Args:
            kind: what happened to it.
            row: its name, such as "arc_easy, document 7".

        Raises:
            ValueError: in strict mode.
        """
        if self.strict:
            raise ValueError(f"{row}: {kind}; leave out strict to go on and count such rows")
        if kind not in self._found:
            self._found[kind] = {"count": 0, "examples": []}
            _log.warning("%s: %s", row, kind)
        entry = self._found[kind]
        entry["count"] += 1
        if len(entry["examples"]) < _EXAMPLES:
            entry["examples"].append(row)

    def report(self) -> dict[str, dict[str, Any]]:
        """Kind -> ``{"count": n, "examples": [...]}``; each is logged as a warning."""
        for kind, entry in self._found.items():
            _log.warning("%s: %d row(s), such as %s", kind, entry["count"], "; ".join(entry["examples"]))
        return self._found


def name_of(request: Any, number: int) -> str:
    """What a request of the harness is called in notes."""
    task, document = getattr(request, "task_name", None), getattr(request, "doc_id", None)
    return f"request {number}" if task is None else f"{task}, document {document}"
