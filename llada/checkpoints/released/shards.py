"""Safetensors folders: one file, or shards with an index; read one tensor at a time, written so that nothing is lost.

Reference: the safetensors format, and the index of Hugging Face's sharded checkpoints:
``{"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}``.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llada.checkpoints.released.arithmetic import shown
from llada.checkpoints.released.notice import warn
from llada.files.json_object import read_object
from llada.files.pointer import check_there, unfinished_in

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "U8": 1}
FLOATS = {"F64", "F32", "F16", "BF16"}
ROWS_AT_ONCE = 512


class Stored(NamedTuple):
    """A tensor as its file's header tells of it, before it is read.

    Attributes:
        file: which holds it.
        shape: its sizes.
        size: bytes.
        dtype: of its numbers, as the file calls it.
    """

    file: Path
    shape: tuple[int, ...]
    size: int
    dtype: str


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Which file holds which tensor, of which shape, checked against the files themselves.

    Raises:
        FileNotFoundError: if there are no weights, saying how to convert a pickle if there is one.
        ValueError: if a file is damaged, or the index doesn't tell the truth.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(f"{folder} has both {WEIGHTS} and {INDEX}; remove the one that isn't meant")
    if single.is_file():
        return stored_in(single)
    if not index.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        if pickles:
            raise FileNotFoundError(
                f"{folder} holds pickled weights ({pickles[0]}), which could run code and aren't loaded; where you "
                "trust them, write safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
                f"'{WEIGHTS}')"
            )
        parts = unfinished_in(folder) if folder.is_dir() else []
        why = f"; {parts[0]} is left of a download that was interrupted, so download it again" if parts else ""
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}{why}")
    return _indexed(folder, read_object(index))


def _indexed(folder: Path, index: dict[str, Any]) -> dict[str, Stored]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensor names to file names")
    found: dict[str, Stored] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX} names the file {file!r}, which isn't in the folder; refusing it")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / INDEX} names the shard {file}, which isn't there")
        headers = stored_in(folder / file)
        for name in headers:
            if weight_map.get(name) != file:
                listed = f"lists it in {weight_map[name]}" if name in weight_map else "doesn't list it"
                raise ValueError(f"{file} holds the tensor {name}, but {INDEX} {listed}")
        for name, listed_file in weight_map.items():
            if listed_file == file and name not in headers:
                raise ValueError(f"{INDEX} lists the tensor {name} in {file}, which doesn't hold it")
        found |= headers
    total = sum(tensor.size for tensor in found.values())
    stated = index.get("metadata", {}).get("total_size") if isinstance(index.get("metadata"), dict) else None
    if stated is not None and stated != total:  # of no effect: names, shapes and places are checked one by one
        warn(f"{folder / INDEX} states a total_size of {shown(stated)} bytes, but the shards hold {total}; going on")
    return found


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors in a file, by their names.

    Raises:
        ValueError: if it is damaged, or holds numbers of another type.
    """
    check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            sizes = {}
            for name in file.keys():  # noqa: SIM118 - not a dict
                view = file.get_slice(name)
                dtype = view.get_dtype()
                if dtype not in DTYPE_BYTES:
                    raise ValueError(f"{path} holds {name} in {dtype}, which isn't supported")
                shape = tuple(view.get_shape())
                sizes[name] = Stored(path, shape, math.prod(shape) * DTYPE_BYTES[dtype], dtype)
            return sizes
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def read_tensors(stored: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, file by file; only one is in memory at a time.

    Raises:
        ValueError: if one isn't of floating-point type or can't be read.
    """
    for path in sorted({tensor.file for tensor in stored.values()}):
        try:
            with safe_open(path, framework="pt") as file:
                for name in [name for name in file.keys() if name in stored]:  # noqa: SIM118 - not a dict
                    check_float(name, stored[name])
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error


def check_float(name: str, tensor: Stored) -> None:
    """Refuse a tensor whose numbers can't be weights.

    Args:
        name: of the tensor.
        tensor: where it is.

    Raises:
        ValueError: if it isn't one of floating-point numbers.
    """
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{tensor.file} holds {name} in {tensor.dtype}, but weights are floating-point numbers")


def are_equal(first: str, second: str, stored: Mapping[str, Stored]) -> bool:
    """Whether two stored matrices hold the same numbers; a few rows of them are in memory at a time.

    Args:
        first: name of a matrix.
        second: name of another.
        stored: where they are.

    Raises:
        ValueError: if a file can't be read.
    """
    a, b = stored[first], stored[second]
    if a.shape != b.shape or len(a.shape) != 2:
        return False
    try:
        with safe_open(a.file, framework="pt") as left, safe_open(b.file, framework="pt") as right:
            for start in range(0, a.shape[0], ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                if not torch.equal(left.get_slice(first)[rows].double(), right.get_slice(second)[rows].double()):
                    return False
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{a.file} is damaged or truncated: {error}") from error
    return True


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_size: int) -> None:
    """Write weights, in one file if they fit, else in shards with an index.

    Args:
        tensors: names and tensors; held one shard at a time.
        folder: an existing folder.
        max_shard_size: bytes per shard; a larger tensor has a shard of its own.
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0
    for name, tensor in tensors:
        bytes_here = tensor.numel() * tensor.element_size()
        if pending and size + bytes_here > max_shard_size:
            shards.append(_write_shard(folder, len(shards), pending))
            pending, size = {}, 0
        pending[name] = tensor.detach().cpu().contiguous()
        size, total = size + bytes_here, total + bytes_here
    shards.append(_write_shard(folder, len(shards), pending))
    if len(shards) == 1:
        _shard(folder, 0).rename(folder / WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        _shard(folder, number).rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number}.tmp"


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> list[str]:
    save_file(tensors, _shard(folder, number), metadata={"format": "pt"})
    return list(tensors)
