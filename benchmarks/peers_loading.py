"""Loading others' code from its files, without installing it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

Pair = tuple[Callable[[], Any], Callable[[], Any], float]
"""Theirs, ours, and by how much they differ."""


def loaded(path: Path) -> Any:
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
