"""Checkpoints that rebuild their model: parts as plain data beside the weights, loaded without unpickling objects.

The Trainer's checkpoint files are pickles. They are read with ``weights_only=True``, which admits tensors and plain
containers and nothing that could run code.
"""

import pickle
import tempfile
import typing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llada.checkpoints.describe import build, describe

PARTS_KEY = "llada"
FORMAT = 1


def stored_parts(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """What a checkpoint keeps of a model beside its weights.

    Args:
        model: whose constructor arguments are described.
        tokenizer: kept whole, if there is one, so that the checkpoint is all that sampling needs.
    """
    description = describe(model)
    return {
        "format": FORMAT,
        "class_path": description["class_path"],
        "parts": description["init_args"],
        "tokenizer": None if tokenizer is None else tokenizer.fingerprint,
        "tokenizer_files": {} if tokenizer is None else _tokenizer_files(tokenizer),
    }


def _tokenizer_files(tokenizer: Any) -> dict[str, torch.Tensor]:
    """The files that ``tokenizer.save`` writes, as (n,) uint8 tensors by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in files.items()}


def write_tokenizer(checkpoint: dict[str, Any], folder: str | Path) -> bool:
    """Write the tokenizer that a checkpoint holds into a folder.

    Args:
        checkpoint: as from `read_checkpoint`.
        folder: an existing folder.

    Returns:
        Whether there was one.

    Raises:
        ValueError: if a stored file name would leave the folder.
    """
    files = checkpoint[PARTS_KEY].get("tokenizer_files", {})
    for name, content in files.items():
        if Path(name).name != name:
            raise ValueError(f"the checkpoint names a tokenizer file {name!r}, which isn't a plain name; refusing it")
        (Path(folder) / name).write_bytes(content.numpy().tobytes())
    return bool(files)


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint file safely.

    Args:
        path: file.
        map_location: device of the weights; None for the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, holds pickled objects, or wasn't written by this library.
    """
    path = Path(path)
    if path.is_dir() and any(path.glob("*.distcp")):
        raise ValueError(
            f"{path} is a distributed checkpoint, with which only fit can go on; where you trust it (its index is a "
            f"pickle), make one file of it: python -m llada.checkpoints.consolidate {path} {path.stem}.one-file.ckpt"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds pickled Python objects, which could run code and are refused; "
            "a foreign checkpoint has to be converted to safetensors where it is trusted"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged or truncated: {type(error).__name__} {error}") from error
    if not isinstance(checkpoint, dict) or PARTS_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this library: it has no {PARTS_KEY!r} entry")
    if checkpoint[PARTS_KEY].get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {checkpoint[PARTS_KEY].get('format')!r}, but this version reads {FORMAT}; update llada"
        )
    return checkpoint


def restore(
    cls: type, path: str | Path, map_location: Any, replacements: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Constructor arguments and weights of a stored model.

    Args:
        cls: class that the arguments are for.
        path: checkpoint file.
        map_location: device of the weights.
        replacements: arguments that are used instead of the stored ones.

    Raises:
        ValueError: as in `read_checkpoint`, or if a replacement or a stored part isn't one of the constructor's, or a
            part names a class of another kind.
    """
    checkpoint = read_checkpoint(path, map_location)
    parts = checkpoint[PARTS_KEY]["parts"]
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    unknown = sorted((set(replacements) | set(parts)) - set(hints))
    if unknown:
        known = ", ".join(sorted(set(hints) - {"return"}))
        raise ValueError(f"{cls.__name__} has no argument {unknown[0]!r}; it has {known}")
    arguments = {name: build(value, hints[name]) for name, value in parts.items() if name not in replacements}
    return arguments | replacements, checkpoint["state_dict"]


def check_tokenizer(checkpoint: dict[str, Any], tokenizer: Any, path: str | Path) -> None:
    """Refuse a tokenizer that isn't the one a model was trained with.

    Raises:
        ValueError: if the fingerprints differ.
    """
    trained_with = checkpoint[PARTS_KEY].get("tokenizer")
    if trained_with is not None and trained_with != tokenizer.fingerprint:
        raise ValueError(
            f"{path} was trained with another tokenizer: its fingerprint is {trained_with}, but this one has "
            f"{tokenizer.fingerprint}; give the tokenizer that was saved beside the checkpoint"
        )
