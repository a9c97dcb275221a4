"""What a client sends, read with care: every value is looked at, and a name that nobody reads is refused."""

import sys
from collections.abc import Collection
from typing import Any

_NEVER: frozenset[str] = frozenset()
_MOST = sys.float_info.max  # NaN, infinities and integers that no float can hold are outside


class Body:
    """A JSON object of a request; each reader takes an entry out, or gives the default if it is missing or null.

    Args:
        content: the object.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self._left = {name: value for name, value in content.items() if value is not None}
        self._read: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The entry as it is."""
        self._read.append(name)
        return self._left.pop(name, default)

    def text(self, name: str, default: str) -> str:
        """A text.

        Raises:
            ValueError: if it is something else.
        """
        value = self.take(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text; got {value!r:.80}")
        return value

    def flag(self, name: str) -> bool:
        """True or false, by default false.

        Raises:
            ValueError: if it is something else.
        """
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false; got {value!r:.80}")
        return value

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number.

        Raises:
            ValueError: if it is none, or outside of least to most.
        """
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}; got {value!r:.80}")
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None.

        Raises:
            ValueError: if it is none.
        """
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST <= value <= _MOST:
            raise ValueError(f"{name} must be a number; got {value!r:.80}")
        return float(value)

    def neutral(self, name: str, values: Collection[Any], why: str) -> None:
        """An entry that is understood only where it asks for nothing.

        Raises:
            ValueError: if it asks for something.
        """
        value = self.take(name)
        if value is not None and value not in values:
            raise ValueError(f"{name}={value!r:.80} isn't supported: {why}")

    def end(self, ignored: Collection[str] = _NEVER) -> None:
        """Nothing may be left.

        Args:
            ignored: names that are allowed and do nothing.

        Raises:
            ValueError: if there is something that nobody reads.
        """
        left = sorted(self._left.keys() - set(ignored))
        if left:
            raise ValueError(f"unknown: {', '.join(left)}; this server reads {', '.join(sorted(set(self._read)))}")
