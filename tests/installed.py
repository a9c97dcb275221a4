"""Tests of what only some versions of a package have."""

from typing import Any

import pytest


def of_transformers(name: str) -> Any:
    """A class of transformers; skips the test where the installed version is older than the class.

    Args:
        name: of the class.
    """
    transformers = pytest.importorskip("transformers", reason="the extra hf isn't installed")
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, name)
