"""Networks without storage, and their weights, one tensor at a time.

A backbone is built on the meta device, where parameters have no storage, and compared with the headers of the files;
then it is filled tensor by tensor. Memory peaks at the model in its target dtype plus one tensor, and nothing that a
configuration asks for takes any before the files have been seen to hold it. A matrix that is to be quantised is so as
soon as it is there.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llada.checkpoints.quantised import stored_form
from llada.checkpoints.released.layout import Described, Layout
from llada.checkpoints.released.notice import warn
from llada.checkpoints.released.shards import Stored, are_equal

GROWING = ("embedding.weight", "head.weight", "head.bias")
"""Parameters with a row for each token."""


def build_on_meta(described: Described, options: Mapping[str, Any], num_stored: int | None = None) -> nn.Module:
    """The network without storage.

    Args:
        described: class and arguments.
        options: arguments that replace them.
        num_stored: tensors in the files. Every block and expert has some, so that a configuration which asks for more
            of these is refused before they are built.

    Raises:
        ValueError: if its sizes don't fit together, an option isn't one of its arguments, or a needed one isn't given.
    """
    arguments = described.told(options)
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


def count_tensors(stored: Mapping[str, Stored]) -> int:
    """How many tensors the files hold, one for each matrix that is stacked with others."""
    return sum(tensor.shape[0] if len(tensor.shape) == 3 and tensor.size else 1 for tensor in stored.values())


def settle_head(
    described: Described, layout: Layout, stored: Mapping[str, Stored], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Decide what a head is that is stored although ``config.json`` ties it to the embedding.

    Args:
        described: what the configuration says.
        layout: family of checkpoints that the stored names belong to.
        stored: tensors by their names.
        options: arguments of the backbone that the caller gives.

    Returns:
        The options and the tensors to go on with: without an equal copy, or untied for another head.

    Raises:
        ValueError: if the caller ties it and it is another one.
    """
    named = {layout.ours(name): name for name in stored}
    head, embedding = named.get("head.weight"), named.get("embedding.weight")
    if not described.told(options).get("tie_embeddings") or head is None or embedding is None:
        return dict(options), dict(stored)
    if are_equal(head, embedding, stored):
        return dict(options), {name: tensor for name, tensor in stored.items() if name != head}
    if options.get("tie_embeddings"):
        raise ValueError(f"tie_embeddings=True, but the files hold a head that isn't the embedding: {head}")
    warn(f"config.json ties the head to the embedding, but the files hold another head, {head}, which is used")
    return {**options, "tie_embeddings": False}, dict(stored)


def check_fit(
    backbone: nn.Module, layout: Layout, shapes: Mapping[str, tuple[int, ...]], grows: bool = False
) -> set[str]:
    """Compare the files with a network before anything is read.

    Args:
        backbone: without storage.
        layout: family of checkpoints that the stored names belong to.
        shapes: of the stored tensors, by their names.
        grows: whether the mask token's row, which is the last one, may be missing.

    Returns:
        Our names of the parameters whose stored form lacks the last row: that of the mask token.

    Raises:
        ValueError: in a few lines, naming a tensor that is unknown, missing, of another shape or there twice.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in backbone.named_parameters()}
    found: dict[str, str] = {}
    unknown: list[str] = []
    shaped: list[str] = []
    growing: set[str] = set()
    for stored, shape in shapes.items():
        names = layout.holds(stored, backbone)
        for name in names:
            if name in found:
                raise ValueError(f"the checkpoint holds {name} twice: as {found[name]} and as {stored}")
        if not expected.keys() >= set(names):
            with torch.device("meta"):  # its size is what the configuration claims
                unknown += [] if layout.constant(stored, backbone) is not None else [stored]
            continue
        found |= dict.fromkeys(names, stored)
        wanted = _joined([expected[name] for name in names])
        if grows and names[0] in GROWING and shape == (wanted[0][0] - 1, *wanted[0][1:]):
            growing.add(names[0])
        elif shape not in wanted:
            shaped.append(f"the tensor {stored} has shape {shape}, but config.json asks for {wanted[0]}")
    missing = [name for name in expected if name not in found]
    lines = [
        _line("the checkpoint lacks the tensor {}", list(dict.fromkeys(layout.theirs(name) for name in missing))),
        _line(f"the checkpoint holds the tensor {{}}, which a {layout.name} model hasn't", unknown),
        _line("{}", shaped),
    ]
    if any(lines):
        raise ValueError("\n".join(filter(None, [*lines, _advice(missing, unknown)])))
    return growing


def _joined(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes of a tensor that holds some of these: one behind the other, or stacked if they are equal."""
    joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    stacked = (len(shapes), *shapes[0])
    return [joined, stacked] if len(shapes) > 1 and len(set(shapes)) == 1 else [joined]


def _line(text: str, names: list[str]) -> str:
    return "" if not names else text.format(names[0]) + ("" if len(names) == 1 else f" ({len(names)} such in all)")


def _advice(missing: list[str], unknown: list[str]) -> str:
    if missing == ["head.weight"] and not unknown:
        return "if the head is the embedding's own matrix, say so: tie_embeddings=True (--backbone tie_embeddings=true)"
    return ""


def fill(
    backbone: nn.Module,
    layout: Layout,
    tensors: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype | None,
    device: torch.device,
    growing: Collection[str] = (),
) -> None:
    """Give a network its weights: in place, or as new parameters where it is on the meta device.

    Args:
        backbone: with or without storage.
        layout: family of checkpoints that the stored names belong to.
        tensors: stored names and tensors, which `check_fit` has found to fit.
        dtype: to which weights without storage are converted; None to keep the stored one.
        device: on which they are placed.
        growing: parameters that get a further row, the mean of the stored ones: what a token has that means nothing in
            particular yet.

    Raises:
        ValueError: if ``dtype`` isn't one of floating-point numbers, or a tensor that follows from the configuration
            says something else.
    """
    if dtype is not None and not getattr(dtype, "is_floating_point", False):
        raise ValueError(f"dtype must be one of floating-point numbers, such as torch.bfloat16; got {dtype!r}")
    places = _places(backbone)
    sizes = {name: parameter.shape for name, parameter in backbone.named_parameters()}
    trained = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
    for stored_name, tensor in tensors:
        names = layout.holds(stored_name, backbone)
        if not places.keys() >= set(names):
            check_constant(stored_name, tensor, layout, backbone)
            continue
        if names[0] in growing:
            tensor = torch.cat([tensor, tensor.float().mean(0, keepdim=True).to(tensor.dtype)])
        for name, part in zip(names, _split(tensor, [sizes[name] for name in names]), strict=True):
            module, leaf = places[name][0]
            present = getattr(module, leaf)
            if not present.is_meta:
                present.data.copy_(part)
                continue
            own = part.to(device=device, dtype=dtype or part.dtype, copy=True)
            coded = stored_form(module, leaf, own)
            parameter = nn.Parameter(own, requires_grad=trained[name]) if coded is None else coded
            for module, leaf in places[name]:
                setattr(module, leaf, parameter)


def _split(tensor: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """The parts of a stored tensor, one behind the other or stacked."""
    if len(shapes) == 1:
        return [tensor]
    return list(tensor.reshape(-1, *shapes[0][1:]).split([shape[0] for shape in shapes]))


def _places(backbone: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each parameter belongs: a tied matrix has two places."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in backbone.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, leaf))
    return {name: owners[id(parameter)] for name, parameter in backbone.named_parameters()}


def check_constant(name: str, tensor: Tensor, layout: Layout, backbone: nn.Module) -> None:
    """Refuse a stored tensor that should follow from the configuration, and doesn't.

    Args:
        name: as it is stored.
        tensor: with its numbers.
        layout: family of checkpoints that the name belongs to.
        backbone: with or without storage.

    Raises:
        ValueError: if it says something else.
    """
    constant = layout.constant(name, backbone)
    assert constant is not None
    if tensor.shape != constant.shape or not torch.allclose(tensor.float(), constant, rtol=1e-2, atol=0.0):
        raise ValueError(f"the tensor {name} isn't what config.json asks for: the rotary wavelengths differ")
