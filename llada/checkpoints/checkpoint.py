"""Checkpoints that rebuild their model: parts as plain data beside the weights, loaded without unpickling objects.

The Trainer's checkpoint files are pickles. They are read with ``weights_only=True``, which admits tensors and plain
containers and nothing that could run code.
"""

import pickle
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from llada.checkpoints.building import UNDESCRIBED, build, check_size
from llada.checkpoints.describe import describe_arguments, loaded_class, public_path
from llada.checkpoints.misfit import in_short
from llada.checkpoints.plausible import check_plausible, limited
from llada.checkpoints.signatures import construct, constructor_hints, defaults
from llada.files.pointer import check_there

M = TypeVar("M", bound=nn.Module)
PARTS_KEY = "llada"
DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    struct.error,
    MemoryError,
)
"""What reading a damaged file ends in."""
FORMAT = 2


def stored_parts(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """What a checkpoint keeps of a model beside its weights.

    Args:
        model: whose constructor arguments are described.
        tokenizer: kept whole, if there is one, so that the checkpoint is all that sampling needs.
    """
    return {
        "format": FORMAT,
        "class_path": public_path(type(model)),
        "parts": describe_arguments(model),
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
        checkpoint: what `read_checkpoint` returned.
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


def read_checkpoint(
    path: str | Path, map_location: Any = None, *, mmap: bool = True, name: str | None = None
) -> dict[str, Any]:
    """Read a checkpoint file safely.

    Args:
        path: checkpoint file.
        map_location: device on which the weights are placed; None for the CPU.
        mmap: whether tensors are read from the file only where they are used. A run that goes on reads all at once,
            since its file may be replaced.
        name: what messages call the file; None for its path.

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
    where = name or path
    check_there(path)
    try:
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{where} is damaged, or holds pickled Python objects, which could run code and are refused; "
            "a foreign checkpoint has to be converted to safetensors where it is trusted"
        ) from error
    except DAMAGE as error:
        if "deserialize object on" in str(error):
            raise ValueError(f"{where} can't be placed on {map_location}, which isn't there; use 'cpu'") from error
        if "mmap can only be used" in str(error):
            raise ValueError(
                f"{where} is damaged, or is no checkpoint: torch.save writes archives (zip), and this isn't one"
            ) from error
        raise ValueError(f"{where} is damaged or truncated: {type(error).__name__} {error}") from error
    if not isinstance(checkpoint, dict) or PARTS_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(f"{where} is not a checkpoint of this library: it has no {PARTS_KEY!r} entry")
    _check_format(checkpoint[PARTS_KEY], where)
    _check_stored(checkpoint, where)
    return checkpoint


def _check_format(stored: Any, path: str | Path) -> None:
    found = stored.get("format") if isinstance(stored, dict) else None
    if found == 1:
        raise ValueError(
            f"{path} was written by an earlier, unreleased version of llada (format 1), whose classes stood elsewhere; "
            "load it with the version that wrote it and save it as a released checkpoint (save_pretrained), or train "
            "again"
        )
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}, but this version reads {FORMAT}; update llada")


class Stored(NamedTuple, Generic[M]):
    """A stored model before it is built.

    Attributes:
        model_class: class of the model.
        arguments: arguments of its constructor.
        weights: its state dictionary.
    """

    model_class: type[M]
    arguments: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def make(self, *, strict: bool = True) -> M:
        """The model with its weights.

        Args:
            strict: whether every weight must be there, and no other.

        Raises:
            ValueError: if the weights are those of another model.
        """
        model: M = construct(self.model_class, self.arguments)
        try:
            model.load_state_dict(self.weights, strict=strict)
        except RuntimeError as error:
            raise ValueError(in_short(error)) from error
        return model


def restore(cls: type[M], path: str | Path, map_location: Any, replacements: dict[str, Any]) -> Stored[M]:
    """Class, constructor arguments and weights of a stored model.

    Args:
        cls: class that the model must be of; subclasses of it are.
        path: checkpoint file.
        map_location: device on which the weights are placed; None for the CPU.
        replacements: arguments that are used instead of the stored ones.

    Raises:
        ValueError: as in `read_checkpoint`, or if the stored class isn't known or isn't a subclass of ``cls``, a
            replacement or a stored part isn't an argument of its constructor, or a part names a class of another kind.
    """
    checkpoint = read_checkpoint(path, map_location)
    class_path, parts = checkpoint[PARTS_KEY]["class_path"], checkpoint[PARTS_KEY]["parts"]
    found = loaded_class(class_path, cls)
    if not issubclass(found, cls):
        raise ValueError(
            f"{path} holds a model of the class {class_path}, which isn't a {cls.__name__}; load it with "
            f"{found.__name__}.load_from_checkpoint"
        )
    hints = constructor_hints(found)
    unknown = sorted((set(replacements) | set(parts)) - set(hints))
    if unknown:
        raise ValueError(f"{found.__name__} has no argument {unknown[0]!r}; it has {', '.join(sorted(hints))}")
    weights = checkpoint["state_dict"]
    stored = {name: value for name, value in parts.items() if name not in replacements}
    stored = _without_undescribed(stored, found, path)
    missing = sorted(set(hints) - set(stored) - set(replacements) - set(defaults(found)))
    if missing:
        raise ValueError(f"{path} doesn't say what {missing[0]} is; give it: load_from_checkpoint({missing[0]}=...)")

    def arguments() -> dict[str, Any]:
        with limited(weights):
            return {n: build(value, hints[n], f"{path}: parts.{n}", found) for n, value in stored.items()}

    check_plausible(lambda: construct(found, arguments() | replacements), weights, path)
    return Stored(found, arguments() | replacements, weights)


def _without_undescribed(parts: dict[str, Any], cls: type, path: str | Path) -> dict[str, Any]:
    """Leave out what couldn't be described when the file was written.

    Raises:
        ValueError: if the class has no default for it.
    """
    missing = {name: value[UNDESCRIBED] for name, value in parts.items() if _is_undescribed(value)}
    for name, reason in missing.items():
        if name not in defaults(cls):
            raise ValueError(
                f"{path} holds the weights of {name}, but not how it is made ({reason}); give it: "
                f"load_from_checkpoint({name}=...)"
            )
        warnings.warn(f"{path} doesn't say what {name} was ({reason}); the default is used", stacklevel=4)
    return {name: value for name, value in parts.items() if name not in missing}


def _is_undescribed(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {UNDESCRIBED}


def _check_stored(checkpoint: dict[str, Any], where: str | Path) -> None:
    """Refuse entries of another type than this library writes.

    Raises:
        ValueError: naming the entry.
    """
    stored, weights = checkpoint[PARTS_KEY], checkpoint["state_dict"]
    files = stored.setdefault("tokenizer_files", {})
    types_: dict[str, bool] = {
        "class_path": isinstance(stored.get("class_path"), str),
        "parts": _named(stored.get("parts"), object),
        "tokenizer": isinstance(stored.get("tokenizer"), str | None),
        "tokenizer_files": _named(files, torch.Tensor) and all(f.dtype == torch.uint8 for f in files.values()),
        "state_dict": _named(weights, torch.Tensor) and all(map(_is_plain, weights.values())),
    }
    for name, is_right in types_.items():
        if not is_right:
            raise ValueError(f"{where} is damaged: its entry {name!r} isn't what this library writes")
    check_size(stored["parts"], f"{where}: parts")


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta


def _named(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())


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
