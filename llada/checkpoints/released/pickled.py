"""Foreign checkpoint files, which are pickles, read without any code of theirs.

PyTorch's restricted unpickler admits tensors and plain containers. Training files also hold settings and tokenizers as
objects of other packages. Here such a class isn't imported: each of its objects becomes an `Inert` one, which holds
what was stored and does nothing, and from which OmegaConf's settings can be read.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from llada.files.pointer import check_there


class Inert:
    """Stands for an object of a class that isn't imported."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.stored: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.stored = state

    def __hash__(self) -> int:
        return id(self)


def read_inert(path: Path) -> dict[str, Any]:
    """Read a checkpoint file; foreign objects in it become plain data where they are settings, else `Inert`.

    Args:
        path: file that ``torch.save`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, could run code, or doesn't hold a dictionary.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    check_there(path)
    try:
        foreign = [name for name in get_unsafe_globals_in_checkpoint(path) if not name.startswith("torch.")]
        with safe_globals([(type("Inert", (Inert,), {}), name) for name in foreign]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds pickled Python objects that could run code and are refused; where you trust "
            "it, load it with the official code and save a plain dictionary of its tensors and settings"
        ) from error
    except (AttributeError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} must hold a dictionary; got a {type(checkpoint).__name__}")
    return {key: _plain(value) for key, value in checkpoint.items()}


def _plain(value: Any, depth: int = 20) -> Any:
    """Containers, and OmegaConf's, as plain ones; a node of OmegaConf as its value."""
    if depth == 0:
        return value
    if isinstance(value, Inert):
        stored = value.stored if isinstance(value.stored, dict) else {}
        inner = stored.get("_content", stored.get("_val", value))
        return value if inner is value else _plain(inner, depth - 1)
    if isinstance(value, dict):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    return value
