"""Networks without storage, and their weights, one tensor at a time.

A backbone is built on the meta device, where parameters have no storage, and filled tensor by tensor; memory peaks at
the model in its target dtype plus one tensor.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llada.checkpoints.released.layout import Described, Layout


def build_on_meta(described: Described, options: dict[str, Any], num_stored: int | None = None) -> nn.Module:
    """The network without storage.

    Args:
        described: class and arguments.
        options: arguments that replace them.
        num_stored: tensors in the files. Every block and expert has some, so that a configuration which asks for more
            of these is refused before they are built.

    Raises:
        ValueError: if its sizes don't fit together, or an option isn't one of its arguments.
    """
    arguments = {**described.arguments, **options}
    parts = arguments["num_layers"] * max(1, arguments.get("num_experts", 0))
    if num_stored is not None and parts > num_stored:
        raise ValueError(
            f"config.json asks for {parts} layers or experts, but the files hold only {num_stored} tensors"
        )
    try:
        with torch.device("meta"):
            return described.backbone(**arguments)
    except (TypeError, RuntimeError, OverflowError) as error:
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
        layout: family of checkpoints that the stored names belong to.
        tensors: stored names and tensors.
        dtype: to which the weights are converted; None to keep the stored one.
        device: on which the weights are placed.

    Raises:
        ValueError: naming a tensor that is unknown, missing, of another shape or there twice.
    """
    if dtype is not None and not getattr(dtype, "is_floating_point", False):
        raise ValueError(f"dtype must be one of floating-point numbers, such as torch.bfloat16; got {dtype!r}")
    places = _places(backbone)
    expected = dict(backbone.named_parameters())
    seen: dict[str, str] = {}
    for stored_name, tensor in tensors:
        if _is_constant(stored_name, tensor, layout, backbone):
            continue
        name = layout.ours(stored_name)
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


def _places(backbone: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each parameter belongs: a tied matrix has two places."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in backbone.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, leaf))
    return {name: owners[id(parameter)] for name, parameter in backbone.named_parameters()}


def _is_constant(name: str, tensor: Tensor, layout: Layout, backbone: nn.Module) -> bool:
    """Whether a stored tensor follows from the configuration; one that should and doesn't is refused."""
    constant = layout.constant(name, backbone)
    if constant is None:
        return False
    if tensor.shape != constant.shape or not torch.allclose(tensor.float(), constant, rtol=1e-2, atol=0.0):
        raise ValueError(f"the tensor {name} isn't what config.json asks for: the rotary wavelengths differ")
    return True
