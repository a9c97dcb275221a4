"""A checkpoint without objects, so that it can be read without unpickling anything that could run code.

Callbacks, schedulers and users put all sorts of things into a checkpoint: numbers of NumPy, paths, functions. Numbers,
arrays and paths have plain equivalents; for the rest there is none, and it is left out with a warning.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

SAFE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
"""Kinds, beside tensors and containers, that a safe read admits."""

WEIGHTS = {"state_dict", "current_model_state"}
"""Entries that hold tensors alone."""


class _Nothing:
    """Stands for what can't be kept."""


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Put plain data in the place of objects.

    Args:
        checkpoint: to be changed; what it refers to isn't.
    """
    lost: list[str] = []
    for key in [key for key in checkpoint if key not in WEIGHTS]:
        value = _plain(checkpoint[key], str(key), lost)
        if value is _Nothing:
            del checkpoint[key]
        else:
            checkpoint[key] = value
    if lost:
        rank_zero_warn(
            f"the checkpoint is kept without {', '.join(lost)}: a file with such objects couldn't be read safely; "
            "store numbers, texts, tensors, lists and dictionaries"
        )


def _plain(value: Any, path: str, lost: list[str]) -> Any:
    if type(value) in SAFE or type(value) in (Tensor, torch.nn.Parameter):
        return value
    if isinstance(value, Tensor):  # such as a DTensor, which distributed checkpoints can hold
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value, path, lost)
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        items = [_plain(item, f"{path}[{index}]", lost) for index, item in enumerate(value)]
        items = [item for item in items if item is not _Nothing]
        return items if isinstance(value, list) else set(items) if isinstance(value, Set) else tuple(items)
    simple = _simple(value)
    if simple is _Nothing:
        lost.append(f"{path} ({type(value).__name__})")
    return simple


def _plain_mapping(value: Mapping[Any, Any], path: str, lost: list[str]) -> dict[Any, Any]:
    found: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in value.items():
        plain_key, plain = _plain(key, f"{path}, a key", lost), _plain(item, f"{path}.{key}", lost)
        if plain_key is not _Nothing and plain is not _Nothing:
            found[plain_key] = plain
    return found


def _simple(value: Any) -> Any:
    """The plain equivalent of a value that isn't a container."""
    if isinstance(value, np.generic) and type(value.item()) in SAFE:
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value)).clone()
    if isinstance(value, PurePath):
        return str(value)
    for kind in (bool, int, float, str):  # enumerations and other subclasses
        if isinstance(value, kind):
            return kind(getattr(value, "value", value))
    return _Nothing
