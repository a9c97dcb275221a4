"""Weights of a released checkpoint for a network that is split over ranks: each rank reads the slices that it keeps.

A parameter that was split on the meta device knows which part of it belongs to this rank: rows from a to b, and of a
matrix whose inputs are split columns from c to d. Safetensors files hold plain arrays, so such a slice is read without
the rest. No rank ever holds a whole matrix, and none waits for another.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.materialise import check_constant
from llada.checkpoints.released.shards import Stored, check_float
from llada.checkpoints.split import split_like

Span = list[slice]
"""A box of a tensor: of each dimension from where to where."""


def fill_parts(
    backbone: nn.Module,
    layout: Layout,
    stored: Mapping[str, Stored],
    device: torch.device,
    growing: Collection[str] = (),
) -> None:
    """Give a split network its weights, in the dtypes of its parameters.

    Args:
        backbone: on the meta device; its parameters are split, or whole where a rank computes all of them.
        layout: family of checkpoints that the stored names belong to.
        stored: tensors by their names in the files, which `check_fit` has found to fit.
        device: on which they are placed.
        growing: parameters that get a further row, the mean of the stored ones.

    Raises:
        ValueError: if a file can't be read, or holds something else than the configuration says.
    """
    parameters = dict(backbone.named_parameters())
    for path in sorted({tensor.file for tensor in stored.values()}):
        try:
            with safe_open(path, framework="pt") as file:
                for name in [name for name in file.keys() if name in stored]:  # noqa: SIM118 - not a dict
                    source = file.get_slice(name)
                    check_float(name, stored[name])
                    names = layout.holds(name, backbone)
                    if not parameters.keys() >= set(names):
                        check_constant(name, file.get_tensor(name), layout, backbone)
                        continue
                    _fill([parameters[each] for each in names], source, device, names[0] in growing)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error


def _fill(parameters: list[nn.Parameter], source: Any, device: torch.device, grows: bool) -> None:
    """Read the parameters that a stored tensor holds: one behind the other, or stacked."""
    stacked, start = len(source.get_shape()) > parameters[0].dim(), 0
    for index, parameter in enumerate(parameters):
        read = SliceReader(source, index if stacked else None, start)
        start += parameter.shape[0]
        empty = _empty(parameter, device)
        if grows:
            rows = source[:]
            whole = torch.cat([rows, rows.float().mean(0, keepdim=True).to(rows.dtype)]).to(empty.dtype)
            own_part(empty).copy_(own_part(split_like(whole.to(device), empty)))
        else:
            own_part(empty).copy_(part_of(empty, read))
        torch.utils.swap_tensors(parameter, nn.Parameter(empty, parameter.requires_grad))  # keeps tied ones tied


class SliceReader:
    """Slices of one parameter of a stored tensor.

    Args:
        source: the tensor in its file.
        index: which of the stacked parameters it is; None if they stand behind one another.
        start: its first row, then.
    """

    def __init__(self, source: Any, index: int | None = None, start: int = 0) -> None:
        self.source, self.index, self.start = source, index, start

    def __call__(self, span: Span) -> Tensor:
        """The numbers of a part of the parameter; nothing else is read."""
        if self.index is not None:
            stacked: Tensor = self.source[(slice(self.index, self.index + 1), *span)]
            return stacked[0]
        rows = slice(self.start + span[0].start, self.start + span[0].stop)
        part: Tensor = self.source[(rows, *span[1:])]
        return part


def part_of(parameter: Tensor, read: Callable[[Span], Tensor]) -> Tensor:
    """This rank's part of values of a parameter's shape, on its device.

    Args:
        parameter: whole or split, with storage.
        read: gives the values of a box, a slice for each dimension.
    """
    span, device = _span(parameter), own_part(parameter).device
    if span is not None:
        return read(span).to(device)
    return own_part(split_like(read([slice(0, n) for n in parameter.shape]).to(device), parameter))


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _span(parameter: Tensor) -> Span | None:
    """Which part belongs to this rank; None if it isn't one box of the whole."""
    if not isinstance(parameter, DTensor):
        return [slice(0, n) for n in parameter.shape]
    span = [slice(0, n) for n in parameter.shape]
    mesh = parameter.device_mesh
    places = zip(parameter.placements, mesh.get_coordinate() or (), range(mesh.ndim), strict=True)
    # FSDP2 splits further what tensor parallelism has split, though it stands before it in the mesh.
    for placement, place, dimension in sorted(places, key=lambda each: hasattr(each[0], "split_factor")):
        if isinstance(placement, Replicate):
            continue
        dim = getattr(placement, "dim", None)
        if dim is None:  # not a split
            return None
        before = span[dim]
        number = before.stop - before.start
        each = -(-number // mesh.size(dimension))  # the last ranks may have fewer, or none
        ends = [before.start + min(count * each, number) for count in (place, place + 1)]
        span[dim] = slice(*ends)
    fits = tuple(part.stop - part.start for part in span) == parameter.to_local().shape
    return span if fits else None


def _empty(parameter: Tensor, device: torch.device) -> Tensor:
    """Storage for this rank's part."""
    if not isinstance(parameter, DTensor):
        return torch.empty_like(parameter, device=device, requires_grad=False)
    part = torch.empty_like(parameter.to_local(), device=device, requires_grad=False)
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())
