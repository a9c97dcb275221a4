"""Write the low-rank additions of a training run as an adapter that PEFT loads onto the released base model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from llada.checkpoints.released.adapter import CONFIG, PREFIX, WEIGHTS
from llada.checkpoints.released.layout import Layout
from llada.files.atomic import replace_folder


def write_adapter(
    folder: str | Path,
    backbone: nn.Module,
    layout: Layout | None,
    additions: Mapping[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, float],
    *,
    dropout: float = 0.0,
    rank_stabilised: bool = False,
    base: str | None = None,
) -> None:
    """Write an adapter in PEFT's own format.

    Args:
        folder: to be made; files of other names in an existing one stay.
        backbone: the network, for the names of its other matrices; it may be without storage.
        layout: family whose names the adapter gets; None for our own.
        additions: A (r, in) and B (out, r) by our names of the matrices, such as ``blocks.0.attention.q_proj``.
        alphas: their scales, by the same names.
        dropout: of their inputs, as it was in training.
        rank_stabilised: whether the scale is divided by the root of the rank.
        base: name or folder of the base model, for programs that look for it.

    Raises:
        ValueError: if there are no additions, or the layout has no name for one of the matrices, or stores several of
            them as one.
    """
    if not additions:
        raise ValueError("there are no additions to write")

    def theirs(name: str) -> str:
        return name if layout is None else layout.theirs(f"{name}.weight").removesuffix(".weight")

    names = {name: theirs(name) for name in additions}
    if len(set(names.values())) < len(names):
        joined = next(path for path in names.values() if list(names.values()).count(path) > 1)
        raise ValueError(
            f"the layout stores several of the matrices as one, {joined}, so that their additions have no place in an "
            "adapter; merge them into the weights instead"
        )
    ranks = {name: len(a) for name, (a, _) in additions.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    config: dict[str, Any] = {
        "alpha_pattern": {names[name]: value for name, value in alphas.items() if value != alpha},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {names[name]: value for name, value in ranks.items() if value != rank},
        "target_modules": _targets(names, backbone, layout),
        "task_type": None,
        "use_rslora": rank_stabilised,
    }
    tensors = {}
    for name, sides in additions.items():
        for side, tensor in zip("AB", sides, strict=True):
            tensors[f"{PREFIX}{names[name]}.lora_{side}.weight"] = tensor.detach().cpu().contiguous()

    def build(work: Path) -> None:
        (work / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})

    replace_folder(Path(folder), build)


def _commonest(values: Mapping[str, Any]) -> Any:
    found = list(values.values())
    return max(found, key=found.count)


def _targets(names: Mapping[str, str], backbone: nn.Module, layout: Layout | None) -> list[str]:
    """The matrices by the last part of their names if no other matrix has it, else by the whole names.

    LLaDA calls a layer's last matrix and the head alike.
    """
    others = set()
    for name, parameter in backbone.named_parameters():
        path = name.removesuffix(".weight")
        if path not in names and parameter.ndim > 1:
            others.add((path if layout is None else layout.theirs(name).removesuffix(".weight")).rpartition(".")[2])
    last = {name.rpartition(".")[2] for name in names.values()}
    return sorted(last if last.isdisjoint(others) else names.values())
