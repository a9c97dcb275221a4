"""Warnings that name the caller's line instead of one of ours."""

import sys
import warnings


def warn(message: str) -> None:
    """Warn at the nearest line outside of this package.

    Args:
        message: what was found and what was done about it.
    """
    depth = 1
    while True:
        try:
            module = sys._getframe(depth).f_globals.get("__name__", "")
        except ValueError:
            break
        if module.partition(".")[0] != __name__.partition(".")[0]:
            break
        depth += 1
    warnings.warn(message, stacklevel=depth + 1)
