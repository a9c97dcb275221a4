"""Load and save whole models in the layouts of released checkpoints."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llada.checkpoints.describe import argument_names, describe
from llada.checkpoints.released.dream import DREAM
from llada.checkpoints.released.fields import Config
from llada.checkpoints.released.folder import write_folder
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.llada import LLaDALayout
from llada.checkpoints.released.llada_moe import LLaDAMoELayout
from llada.checkpoints.released.llama import LLAMA, QWEN2, QWEN3
from llada.checkpoints.released.materialise import build_on_meta, fill
from llada.checkpoints.released.mdlm import MDLMLayout
from llada.checkpoints.released.shards import read_tensors, tensor_files, write_tensors
from llada.files.json_object import read_object
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
    layouts: Sequence[Layout] = LAYOUTS,
    **backbone_options: Any,
) -> Pretrained:
    """Load a released checkpoint.

    Served: LLaDA (8B Base and Instruct, 1.5, 1B, iLLaDA), LLaDA-MoE, Dream, MDLM, BD3LM where its block is the whole
    row, and autoregressive LLaMA, Qwen2 and Qwen3 checkpoints as the start of a diffusion model.

    Args:
        folder_or_hub_id: a folder with ``config.json`` and safetensors, or a name on the Hugging Face hub (extra
            ``hf``).
        dtype: to which the weights are converted; None to keep the stored one.
        device: on which the weights are placed.
        revision: branch, tag or commit of the repository on the hub; None for its main branch.
        mask_token_id: the mask, where the configuration has none or another is wanted.
        layouts: families that are tried; the first one that knows the configuration is taken. A family of one's own
            is added by ``[MyLayout(), *LAYOUTS]``.
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
    config = read_object(folder / "config.json")
    layout = layout_of(config, layouts)
    described = layout.read(config, mask_token_id)
    files = tensor_files(folder)
    backbone = build_on_meta(described, backbone_options, len(files))
    fill(backbone, layout, read_tensors(files), dtype, torch.device(device))
    return Pretrained(backbone.eval(), described.process, config)


def write_pretrained(
    model: Pretrained,
    folder: str | Path,
    *,
    layout: str | Layout | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Save a model in the layout of a released checkpoint: ``config.json``, weights, tokenizer files.

    Everything is written beside the folder first and put in its place at the end; what was there before stays until
    then. What the released configurations don't say is left out: the schedule, and whether the loss's softmax leaves
    the mask out. On loading, these are the family's own.

    Args:
        model: network, process, and the configuration it was loaded with; {} for none.
        folder: folder to be written. In an existing one, ``config.json`` and weights are replaced, the tokenizer's
            files if ``tokenizer`` is given, and nothing else.
        layout: "llada", "llada_moe", "dream", "qwen2", "qwen3", "llama" or "mdlm", or a layout of one's own; None for
            the one the model came from, or the first that can say all of it.
        tokenizer: saved beside the weights, if given; the configuration gets its special tokens where it has none.
        dtype: in which the weights are stored; None for the model's own.
        max_shard_size: bytes per file, or a text such as "500MB".

    Raises:
        ValueError: if the size isn't one, or no layout, or not the one asked for, can say what the model is.
    """
    chosen, config = _layout_for(model, layout)
    shard_bytes = parse_size(max_shard_size)
    if "torch_dtype" in config:  # LLaDA's own have none
        stored = dtype or next(model.backbone.parameters()).dtype
        config["torch_dtype"] = str(stored).removeprefix("torch.")
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if tokenizer is not None and config.get(role) is None and getattr(tokenizer, role, None) is not None:
            config[role] = getattr(tokenizer, role)

    def build(work: Path) -> None:
        (work / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(_named(model.backbone, chosen, dtype), work, shard_bytes)
        if tokenizer is not None:
            tokenizer.save(work)

    write_folder(Path(folder), build, tokenizer=tokenizer is not None)


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

    Only data are downloaded: configurations, safetensors and the tokenizer's files; no code and no pickles.

    Raises:
        FileNotFoundError: if there is no such folder, and no such name on the hub or no way to it.
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
    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(str(folder_or_hub_id), revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the hub's own errors are among these
        raise FileNotFoundError(f"there is no folder {path} here, and the hub didn't give it: {error}") from error


def layout_of(config: Config, layouts: Sequence[Layout] = LAYOUTS) -> Layout:
    """The first layout that knows a configuration.

    Raises:
        ValueError: if none does.
    """
    for layout in layouts:
        if layout.matches(config):
            return layout
    raise ValueError(
        f"config.json has model_type={config.get('model_type')!r}, which isn't one of "
        f"{', '.join(sorted({layout.name for layout in layouts}))}; another network can be wrapped with "
        "llada.backbones.huggingface.HuggingFaceBackbone, and a layout of your own given: "
        "from_pretrained(..., layouts=[MyLayout(), *LAYOUTS]), save_pretrained(..., layout=MyLayout())"
    )


def _named(backbone: nn.Module, layout: Layout, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in backbone.named_parameters():
        yield layout.theirs(name), parameter.detach().to(dtype or parameter.dtype)
    yield from layout.constants(backbone)


def _layout_for(model: Pretrained, wanted: str | Layout | None) -> tuple[Layout, Config]:
    """The layout to save in, and the configuration with what the original one knew beside."""
    reasons = []
    for layout in _candidates(model.config, wanted):
        kept = model.config if model.config and layout.matches(model.config) else {}
        try:
            written = layout.write(model.backbone, model.process)
            config = {**kept, **{key: value for key, value in written.items() if _changed(kept, key, value)}}
            _check_complete(layout, config, model)
        except ValueError as error:
            reasons.append(str(error))
            continue
        return layout, config
    raise ValueError("; ".join(reasons))


def _candidates(original: Config, wanted: str | Layout | None) -> list[Layout]:
    if isinstance(wanted, Layout):
        return [wanted]
    if wanted is None and original:
        return [layout_of(original)]
    found = [layout for layout in LAYOUTS if wanted in (None, layout.name)]
    if not found:
        raise ValueError(
            f"layout {wanted!r} is unknown; choose one of {', '.join(layout.name for layout in LAYOUTS)}, or give a "
            "layout of your own"
        )
    return found


def _check_complete(layout: Layout, config: Config, model: Pretrained) -> None:
    """Refuse a configuration that another model would be loaded from than the one that is saved."""
    described = layout.read(config, None)
    loaded = build_on_meta(described, {})
    names = [name for name in argument_names(described.backbone) if name not in layout.without_effect]
    compared = [(name, getattr(model.backbone, name), getattr(loaded, name)) for name in names]
    for name in ("mask_token_id", "time_conditioned"):
        compared.append((name, getattr(model.process, name), getattr(described.process, name)))
    for name, ours, theirs in compared:
        if describe(ours) != describe(theirs):
            raise ValueError(
                f"the {layout.name} layout can't say {name}={ours!r}, only {theirs!r}; "
                "keep the Lightning checkpoint, or choose another layout"
            )


def _changed(kept: Config, key: str, value: Any) -> bool:
    """Whether a field must be written: an original field that says the same stays as it was spelt."""
    return key not in kept or (kept[key] != value and not (kept[key] is None and value in (None, False, 0)))
