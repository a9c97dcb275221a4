"""What to do with a finished run: the command that tries its model, as its last line tells it."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llada.checkpoints.describe import describe_arguments

_FOUND = frozenset({"llada", "torch", "lightning", "transformers"})
"""Packages whose classes a command finds without being told to trust them."""


def shown(path: Path) -> str:
    """A path as it is told and typed: below the working folder, from there."""
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else str(path)


def next_command(path: Path, model: Any, data: Any = None) -> str:
    """`llada chat` for a model that was trained on turns and has their template, `llada sample` for others.

    Args:
        path: the checkpoint.
        model: whose parts of other packages have to be trusted by name.
        data: what it was trained on.
    """
    turns = getattr(data, "template", None) is not None
    tried = "chat" if turns and getattr(data.tokenizer, "chat_template", None) is not None else "sample"
    try:
        others = sorted(set(_packages(describe_arguments(model))) - _FOUND)
    except ValueError:  # the weights alone were kept
        others = []
    return " ".join(["llada", tried, shlex.quote(shown(path)), *(f"--trust {name}" for name in others)])


def _packages(description: Any) -> Iterator[str]:
    """The packages of the classes that a description names."""
    if isinstance(description, dict):
        if isinstance(path := description.get("class_path"), str):
            yield path.partition(".")[0]
        description = list(description.values())
    if isinstance(description, list | tuple):
        for each in description:
            yield from _packages(each)
