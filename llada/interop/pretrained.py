"""Load and save whole models in the layouts of released checkpoints.

A backbone is built on the meta device, where parameters have no storage, and filled one tensor at a time; memory peaks
at the model in its target dtype plus one tensor.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llada.interop.layout import Config, Described, Layout
from llada.interop.llada import LLaDALayout
from llada.interop.llama import DREAM, LLAMA, QWEN2, QWEN3, LLaDAMoELayout
from llada.interop.mdlm import MDLMLayout
from llada.interop.shards import read_json, read_tensors, tensor_files, write_tensors
from llada.process import MaskingProcess


class Pretrained(NamedTuple):
    """What a released checkpoint holds.

    Attributes:
        backbone: the network.
        process: mask token, schedule and conditioning.
        config: content of ``config.json``.
    """

    backbone: nn.Module
    process: MaskingProcess
    config: Config


LAYOUTS: tuple[Layout, ...] = (LLaDAMoELayout(), LLaDALayout(), DREAM, QWEN2, QWEN3, LLAMA, MDLMLayout())
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def read_pretrained(
    folder_or_hub_id: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    mask_token_id: int | None = None,
    **backbone_options: Any,
) -> Pretrained:
    """Load a released checkpoint.

    Served: LLaDA (8B Base and Instruct, 1.5, 1B, iLLaDA), LLaDA-MoE, Dream, MDLM, BD3LM where its block is the whole
    row, and autoregressive LLaMA, Qwen2 and Qwen3 checkpoints as the start of a diffusion model.

    Args:
        folder_or_hub_id: a folder with ``config.json`` and safetensors, or a name on the Hugging Face hub (extra
            ``hf``).
        dtype: of the weights; None for the stored one.
        device: of the weights.
        revision: of the hub repository.
        mask_token_id: the mask, where the configuration has none or another is wanted.
        backbone_options: constructor arguments of the backbone that replace those of the configuration, such as
            ``activation_checkpointing=True``, or ``causal=True, shift=False`` for an autoregressive checkpoint's own
            logits.

    Returns:
        The network in evaluation mode, the process, and the configuration as it was stored.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no safetensors.
        ValueError: if the configuration can't be served, or a tensor is unknown, missing, of another shape or there
            twice; the message names it. Nothing is loaded in part, and no remote code or pickle is ever run.
    """
    folder = find_folder(folder_or_hub_id, revision)
    config = read_json(folder / "config.json")
    layout = layout_of(config)
    described = layout.read(config, mask_token_id)
    backbone = build_on_meta(described, backbone_options)
    fill(backbone, layout, read_tensors(tensor_files(folder)), dtype, torch.device(device))
    return Pretrained(backbone.eval(), described.process, config)


def write_pretrained(
    model: Pretrained,
    folder: str | Path,
    *,
    layout: str | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Save a model in the layout of a released checkpoint: ``config.json``, weights, tokenizer files.

    Everything is written beside the folder first and put in its place at the end; what was there before stays until
    then.

    Args:
        model: network, process, and the configuration it was loaded with; {} for none.
        folder: where; an existing folder is replaced.
        layout: "llada", "llada_moe", "dream", "qwen2", "qwen3", "llama" or "mdlm"; None for the one the model came
            from, or the first that can say all of it.
        tokenizer: saved beside the weights, if given.
        dtype: of the stored weights; None for the model's own.
        max_shard_size: bytes per file, or a text such as "500MB".

    Raises:
        ValueError: if the size isn't one, or no layout, or not the one asked for, can say what the model is.
    """
    chosen, config = _layout_for(model, layout)
    shard_bytes = parse_size(max_shard_size)
    stored = dtype or next(model.backbone.parameters()).dtype
    if "torch_dtype" in config:  # LLaDA's own have none
        config["torch_dtype"] = str(stored).removeprefix("torch.")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (work / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(_named(model.backbone, chosen, stored), work, shard_bytes)
        if tokenizer is not None:
            tokenizer.save(work)
        _replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 5000000 or "5MB".

    Raises:
        ValueError: if it isn't one, or isn't above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(KB|MB|GB)?\s*", str(size), re.IGNORECASE)
    count = 0 if found is None else int(float(found[1]) * UNITS.get((found[2] or "").upper(), 1))
    if count < 1:
        raise ValueError(f"a size must be a number of bytes or a text such as '500MB' or '5GB'; got {size!r}")
    return count


def find_folder(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is a name on the hub.

    Raises:
        FileNotFoundError: if there is no such folder and it can't be a hub name.
        ImportError: if it is a hub name and ``huggingface_hub`` isn't installed.
    """
    path = Path(folder_or_hub_id)
    if path.is_dir():
        return path
    if path.exists() or len(path.parts) != 2 or path.is_absolute():
        raise FileNotFoundError(f"there is no folder {path}, and it isn't a hub name such as GSAI-ML/LLaDA-8B-Base")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(f"there is no folder {path}; to download it from the hub: pip install llada[hf]") from error
    wanted = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    return Path(snapshot_download(str(folder_or_hub_id), revision=revision, allow_patterns=wanted))


def layout_of(config: Config) -> Layout:
    """The layout of a configuration.

    Raises:
        ValueError: if no layout knows it.
    """
    for layout in LAYOUTS:
        if layout.matches(config):
            return layout
    raise ValueError(
        f"config.json has model_type={config.get('model_type')!r}, which isn't one of "
        f"{', '.join(sorted({layout.name for layout in LAYOUTS}))}; "
        "another network can be wrapped with llada.backbones.huggingface.HuggingFaceBackbone"
    )


def build_on_meta(described: Described, options: dict[str, Any]) -> nn.Module:
    """The network without storage.

    Raises:
        ValueError: if its sizes don't fit together, or an option isn't one of its arguments.
    """
    arguments = {**described.arguments, **options}
    try:
        with torch.device("meta"):
            return described.backbone(**arguments)
    except TypeError as error:
        raise ValueError(f"{described.backbone.__name__} can't be built from config.json: {error}") from error


def fill(
    backbone: nn.Module,
    layout: Layout,
    tensors: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Give a network on the meta device its weights.

    Args:
        backbone: without storage.
        layout: of the stored names.
        tensors: stored names and tensors.
        dtype: of the weights; None for the stored one.
        device: of the weights.

    Raises:
        ValueError: naming a tensor that is unknown, missing, of another shape or there twice.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in backbone.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, leaf))  # a tied matrix has two
    expected = dict(backbone.named_parameters())
    places = {name: owners[id(parameter)] for name, parameter in expected.items()}
    seen: dict[str, str] = {}
    for stored_name, tensor in tensors:
        name = layout.ours(stored_name)
        if name is None:
            continue
        if name not in expected:
            raise ValueError(f"the checkpoint holds the tensor {stored_name}, which a {layout.name} model hasn't")
        if name in seen:
            raise ValueError(f"the checkpoint holds {name} twice: as {seen[name]} and as {stored_name}")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"the tensor {stored_name} has shape {tuple(tensor.shape)}, but config.json asks for "
                f"{tuple(expected[name].shape)}"
            )
        seen[name] = stored_name
        parameter = nn.Parameter(tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True))
        for module, leaf in places[name]:
            setattr(module, leaf, parameter)
    missing = [name for name in expected if name not in seen]
    if missing:
        raise ValueError(f"the checkpoint lacks the tensor {layout.theirs(missing[0])} ({len(missing)} missing in all)")


def _named(backbone: nn.Module, layout: Layout, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in backbone.named_parameters():
        yield layout.theirs(name), parameter.detach().to(dtype)
    yield from layout.derived(backbone, dtype)


def _layout_for(model: Pretrained, name: str | None) -> tuple[Layout, Config]:
    """The layout to save in, and the configuration with what the original one knew beside."""
    original = model.config
    if name is None and original:
        name = layout_of(original).name
    candidates = [layout for layout in LAYOUTS if name in (None, layout.name)]
    if not candidates:
        raise ValueError(f"layout {name!r} is unknown; choose one of {', '.join(layout.name for layout in LAYOUTS)}")
    reasons = []
    for layout in candidates:
        try:
            written = layout.write(model.backbone, model.process)
        except ValueError as error:
            reasons.append(str(error))
            continue
        kept = original if original and layout.matches(original) else {}
        return layout, {**kept, **{key: value for key, value in written.items() if _changed(kept, key, value)}}
    raise ValueError("; ".join(reasons))


def _changed(kept: Config, key: str, value: Any) -> bool:
    """Whether a field must be written: an original field that says the same stays as it was spelt."""
    return key not in kept or (kept[key] != value and not (kept[key] is None and value in (None, False, 0)))


def _replace(work: Path, folder: Path) -> None:
    """Put a finished folder in its place."""
    work.chmod(0o755)
    if not folder.exists():
        os.replace(work, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, old / "folder")
    os.replace(work, folder)
    shutil.rmtree(old)
