r"""LoRA adapters in PEFT's own format: ``adapter_config.json`` and ``adapter_model.safetensors``.

    W  <-  W + s B A,    s = alpha / r, or alpha / sqrt(r) with ``use_rslora``        A: (r, in), B: (out, r)

An adapter names matrices as its base model does, so the layout of that family translates them; one that was trained on
our own network has our names. Rank and scale may differ from matrix to matrix (``rank_pattern``, ``alpha_pattern``).
Whole matrices that were trained beside (``modules_to_save``) replace ours. What changes the arithmetic otherwise (DoRA,
biases, initialisations that change the base) is refused by name.

Reference: Hugging Face's PEFT, ``LoraConfig``; Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732 (rsLoRA).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from llada.checkpoints.quantised import quantised_layers, whole_shapes
from llada.checkpoints.released.arithmetic import NEUTRAL, shown
from llada.checkpoints.released.families import LAYOUTS
from llada.checkpoints.released.fields import number, whole
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.low_rank import Addition, config_of, put_in
from llada.checkpoints.released.parts import SliceReader, Span, own_part, part_of
from llada.checkpoints.released.shards import Stored, check_float, read_tensors, stored_in
from llada.files.json_object import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PART = re.compile(r"(?P<path>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
SERVED: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "peft_type": ("LORA",),
    "use_rslora": (True, False, None),
}
WITHOUT_EFFECT = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
        "ephemeral_gpu_offload", "eva_config", "exclude_modules", "inference_mode", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core",
        "modules_to_save", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
        "runtime_config", "target_modules", "task_type",
    }
)  # fmt: skip
"""Read elsewhere, of no effect once trained, or told by the tensors."""
UNBOUNDED = re.compile(r"\)[*+?{]|\\[1-9]|\(\?|([*+{].*){5}")
"""In an expression for names: what may take for ever to match."""


class Replacement(NamedTuple):
    """A whole parameter in an adapter's file, which is read when it is wanted.

    Attributes:
        name: of the tensor in the file, which holds the parameter, perhaps among others.
        stored: the file.
        start: the parameter's first row.
        shape: its sizes.
    """

    name: str
    stored: Stored
    start: int
    shape: tuple[int, ...]

    def read(self, span: Span) -> Tensor:
        """A box of the parameter; nothing else is read."""
        with safe_open(self.stored.file, framework="pt") as file:
            return SliceReader(file.get_slice(self.name), start=self.start)(span)


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter.

    Args:
        additions: by the parameter that they are added to, in our names.
        replacements: whole parameters, by our names.
    """

    additions: Mapping[str, Addition]
    replacements: Mapping[str, Replacement]


def merge_adapter(backbone: nn.Module, folder: str | Path, layout: Layout | None = None) -> None:
    """Add an adapter to the weights of a network; beside them (extra ``peft``) where they are quantised.

    Args:
        backbone: the network that the adapter was trained on. Where it is split over ranks, each makes its own part of
            the sums.
        folder: with the two files.
        layout: family whose names the adapter has; None to try all, and our own names.

    Raises:
        FileNotFoundError: if a file isn't there.
        ImportError: without the extra, where it is needed.
        ValueError: if the adapter is of another kind, damaged, or belongs to another network; it is unchanged then.
    """
    adapter = read_adapter(backbone, folder, layout)
    parameters = dict(backbone.named_parameters())
    quantised = quantised_layers(backbone)
    lost = [name for name in adapter.replacements if name.removesuffix(".weight") in quantised]
    if lost:
        raise ValueError(f"the adapter replaces {lost[0]}, which is quantised; load the model without quantise")
    beside = {name.removesuffix(".weight"): each for name, each in adapter.additions.items()}
    beside = {path: each for path, each in beside.items() if path in quantised}
    with torch.no_grad():
        for name, replacement in adapter.replacements.items():
            own_part(parameters[name]).copy_(part_of(parameters[name], replacement.read))
        for name, addition in adapter.additions.items():
            if name.removesuffix(".weight") in beside:
                continue
            weight, change = own_part(parameters[name]), part_of(parameters[name], addition.sum)
            weight.copy_(weight.to(torch.promote_types(weight.dtype, change.dtype)) + change)
    if beside:
        put_in(backbone, config_of(beside), beside, dropout=0.0)
        backbone.eval()


def read_adapter(backbone: nn.Module, folder: str | Path, layout: Layout | None = None) -> Adapter:
    """Read an adapter and compare it with a network; arguments and errors as in `merge_adapter`."""
    folder = Path(folder)
    config = read_object(folder / CONFIG)
    _check_config(config)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; pickled adapters (.bin) could run code and aren't loaded")
    stored = stored_in(folder / WEIGHTS)
    parts = {name: PART.fullmatch(name.removeprefix(PREFIX)) for name in stored}
    whole_ones = {n.removeprefix(PREFIX).replace(".base_layer.", "."): n for n, part in parts.items() if part is None}
    pairs: dict[str, dict[str, Tensor]] = {}
    embeddings = set()
    for name, tensor in read_tensors({name: stored[name] for name, part in parts.items() if part is not None}):
        if (found := parts[name]) is not None:
            pairs.setdefault(found["path"], {})[found["side"]] = tensor
            embeddings |= {found["path"]} if found["embedding"] else set()
    _check_complete(config, bool(pairs), bool(whole_ones), folder / WEIGHTS)
    named = _our_names([*whole_ones, *(f"{path}.weight" for path in pairs)], backbone, layout)
    additions = {}
    for path, sides in pairs.items():
        if len(sides) != 2:
            raise ValueError(f"{folder / WEIGHTS} holds half of the addition to {path}")
        if any(side.ndim != 2 for side in sides.values()):
            raise ValueError(f"{folder / WEIGHTS} holds an addition to {path} that isn't of two matrices")
        rank, alpha = _pattern(config, "rank", path), _pattern(config, "alpha", path)
        if {len(sides["A"]), sides["B"].shape[-1]} != {rank}:
            raise ValueError(f"{CONFIG} says that the addition to {path} has rank {rank}; it has {len(sides['A'])}")
        stable = bool(config.get("use_rslora"))
        addition = Addition(sides["A"], sides["B"], alpha, stable, path in embeddings)
        names = named[f"{path}.weight"]
        for name, rows in _rows_of(names, addition.b.shape, backbone, path).items():
            additions[name] = addition._replace(b=addition.b[rows])
    replacements: dict[str, Replacement] = {}
    for path, name in whole_ones.items():
        replacements |= _replacements(name, stored[name], _rows_of(named[path], stored[name].shape, backbone, path))
    adapter = Adapter(additions, replacements)
    _check_shapes(adapter, backbone)
    return adapter


def _check_config(config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name in SERVED and value not in SERVED[name]:
            options = " or ".join(map(repr, SERVED[name]))
            raise ValueError(f"{CONFIG} has {name}={shown(value)}, but only {options} can be loaded")
        if name not in SERVED and name not in WITHOUT_EFFECT and value not in NEUTRAL:
            raise ValueError(
                f"{CONFIG} has {name}={shown(value)}, which isn't plain LoRA; merge it with PEFT (merge_and_unload) "
                "and load the whole model"
            )
    if "peft_type" not in config:
        raise ValueError(f"{CONFIG} has no field 'peft_type'")


def _check_complete(config: dict[str, Any], has_additions: bool, has_whole: bool, file: Path) -> None:
    """Refuse a file that holds other tensors than an adapter's, or has lost those that were trained as a whole."""
    if not has_additions:
        raise ValueError(f"{file} holds no low-rank additions; is it another file?")
    if config.get("modules_to_save") and not has_whole:
        raise ValueError(
            f"{CONFIG} says that {shown(config['modules_to_save'])} were trained as a whole (modules_to_save), but "
            f"{file} holds no whole matrix; fetch the adapter again"
        )


def _pattern(config: dict[str, Any], kind: str, path: str) -> Any:
    """Rank or scale of a matrix: that of the first expression which its path ends with, or the common one."""
    field = {"rank": "r", "alpha": "lora_alpha"}[kind]
    read = whole if kind == "rank" else number
    patterns = config.get(f"{kind}_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{CONFIG} has {kind}_pattern={shown(patterns)}, but it must be an object")
    for key, value in patterns.items():
        if UNBOUNDED.search(key):
            raise ValueError(f"{CONFIG} has the expression {shown(key)} in {kind}_pattern, which is too involved")
        try:
            if re.match(rf"(.*\.)?({key})$", path):
                return read({key: value}, key, file=CONFIG)
        except re.error as error:
            raise ValueError(f"{CONFIG} has {shown(key)} in {kind}_pattern, which is no expression: {error}") from error
    return read(config, field, file=CONFIG)


def _replacements(name: str, stored: Stored, rows: Mapping[str, slice]) -> dict[str, Replacement]:
    check_float(name, stored)
    return {
        ours: Replacement(name, stored, part.start, (part.stop - part.start, *stored.shape[1:]))
        for ours, part in rows.items()
    }


def _rows_of(names: tuple[str, ...], shape: Sequence[int], backbone: nn.Module, path: str) -> dict[str, slice]:
    """Which rows of a stored tensor belong to each of our parameters: all to the only one, mostly."""
    number = shape[0] if shape else 0
    if len(names) == 1:
        return {names[0]: slice(0, number)}
    shapes = whole_shapes(backbone)
    ends = list(accumulate((shapes[name][0] for name in names), initial=0))
    if number != ends[-1]:
        raise ValueError(f"the adapter's {path} has {number} rows, but the model's {ends[-1]}")
    return {name: slice(*span) for name, span in zip(names, pairwise(ends), strict=True)}


def _our_names(stored: list[str], backbone: nn.Module, layout: Layout | None) -> dict[str, tuple[str, ...]]:
    """Our names of the parameters that an adapter changes; of several for a matrix that the layout joins."""
    parameters = {name for name, _ in backbone.named_parameters()}
    best: dict[str, tuple[str, ...]] = {}
    layouts: Iterable[Layout | None] = (layout, None, *LAYOUTS)
    for candidate in layouts:
        for prefix in ("", "model."):  # an adapter of the body alone lacks the second
            ours = {
                name: (prefix + name,) if candidate is None else candidate.holds(prefix + name, backbone)
                for name in stored
            }
            found = {name: own for name, own in ours.items() if own and parameters.issuperset(own)}
            best = max(best, found, key=len)
    lost = [name for name in stored if name not in best]
    if lost or not stored:
        name = lost[0].removesuffix(".weight") if lost else "nothing"
        raise ValueError(f"the adapter changes {name}, which the model hasn't; is it of another base model?")
    return best


def _check_shapes(adapter: Adapter, backbone: nn.Module) -> None:
    shapes = whole_shapes(backbone)
    tied = getattr(backbone, "tie_embeddings", False)
    for name in [*adapter.additions, *adapter.replacements]:
        if tied and name == "embedding.weight":
            raise ValueError("the adapter changes the embedding alone, but the model's head is the same matrix")
    for name, replacement in adapter.replacements.items():
        if replacement.shape != shapes[name]:
            raise ValueError(f"the adapter's {name} has shape {replacement.shape}, but the model's {shapes[name]}")
    for name, addition in adapter.additions.items():
        shape = (len(addition.b), addition.a.shape[-1])
        if shape[:: -1 if addition.transposed else 1] != shapes[name]:
            raise ValueError(f"the adapter's addition to {name} has shape {shape}, but the matrix {shapes[name]}")
