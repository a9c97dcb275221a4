"""Safetensors folders: one file, or shards with an index; read one tensor at a time, written so that nothing is lost.

Reference: the safetensors format, and the index of Hugging Face's sharded checkpoints:
``{"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}``.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llada.files.json_object import read_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "U8": 1}
FLOATS = {"F64", "F32", "F16", "BF16"}


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor, checked against the files themselves.

    Raises:
        FileNotFoundError: if there are no weights, saying how to convert a pickle if there is one.
        ValueError: if a file is damaged, or the index doesn't tell the truth.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(f"{folder} has both {WEIGHTS} and {INDEX}; remove the one that isn't meant")
    if single.is_file():
        return dict.fromkeys(_headers(single), single)
    if not index.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        if pickles:
            raise FileNotFoundError(
                f"{folder} holds pickled weights ({pickles[0]}), which could run code and aren't loaded; where you "
                "trust them, write safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
                f"'{WEIGHTS}')"
            )
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    return _indexed(folder, read_object(index))


def _indexed(folder: Path, index: dict[str, Any]) -> dict[str, Path]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensor names to file names")
    total = 0
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX} names the file {file!r}, which isn't in the folder; refusing it")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / INDEX} names the shard {file}, which isn't there")
        headers = _headers(folder / file)
        for name in headers:
            if weight_map.get(name) != file:
                listed = f"lists it in {weight_map[name]}" if name in weight_map else "doesn't list it"
                raise ValueError(f"{file} holds the tensor {name}, but {INDEX} {listed}")
        for name, listed_file in weight_map.items():
            if listed_file == file and name not in headers:
                raise ValueError(f"{INDEX} lists the tensor {name} in {file}, which doesn't hold it")
        total += sum(headers.values())
    stated = index.get("metadata", {}).get("total_size") if isinstance(index.get("metadata"), dict) else None
    if stated is not None and stated != total:
        raise ValueError(f"{INDEX} states a total_size of {stated} bytes, but the shards hold {total}")
    return {name: folder / file for name, file in weight_map.items()}


def _headers(path: Path) -> dict[str, int]:
    """Names and bytes of the tensors in a file."""
    try:
        with safe_open(path, framework="pt") as file:
            sizes = {}
            for name in file.keys():  # noqa: SIM118 - not a dict
                view = file.get_slice(name)
                dtype = view.get_dtype()
                if dtype not in DTYPE_BYTES:
                    raise ValueError(f"{path} holds {name} in {dtype}, which isn't supported")
                count = 1
                for size in view.get_shape():
                    count *= size
                sizes[name] = count * DTYPE_BYTES[dtype]
            return sizes
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def read_tensors(files: dict[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file; only one is in memory at a time.

    Raises:
        ValueError: if one isn't of floating-point type or can't be read.
    """
    for path in sorted(set(files.values())):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    dtype = file.get_slice(name).get_dtype()
                    if dtype not in FLOATS:
                        raise ValueError(f"{path} holds {name} in {dtype}, but weights are floating-point numbers")
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error


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
