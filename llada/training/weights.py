"""Weights of a model that has no storage yet, or of which this process holds a part.

A network that was built under ``torch.device("meta")`` knows shapes only. It gets storage and weights here, whole or
split over ranks, and the weights don't depend on the split.
"""

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from llada.checkpoints.split import split_like


def materialise(backbone: nn.Module, device: torch.device, seed: int) -> None:
    """Give a backbone on the meta device storage and initial weights, which are the same for any number of ranks.

    Args:
        backbone: whole or split.
        device: of its parameters.
        seed: of the weights.

    Raises:
        ValueError: if it has no ``reset_parameters``, or buffers, which that wouldn't fill.
    """
    name = type(backbone).__name__
    if not callable(getattr(backbone, "reset_parameters", None)):
        raise ValueError(f"{name} can't be built on the meta device: it has no reset_parameters()")
    if any(buffer.is_meta for buffer in backbone.buffers()):
        raise ValueError(f"{name} can't be built on the meta device: it has buffers")
    for parameter in set(backbone.parameters()):
        empty = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
        torch.utils.swap_tensors(parameter, empty)  # keeps tied parameters tied
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), _Wholes():
        torch.manual_seed(seed)
        backbone.reset_parameters()  # type: ignore[operator]


class _Wholes(TorchDispatchMode):
    """Does on whole tensors what is asked of sharded ones, so that random numbers don't repeat from shard to shard.

    Whole tensors live only as long as the operations are about them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._open: dict[int, tuple[DTensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, DTensor)]
        if wanted:
            self._close(keep={id(value) for value in wanted})
        args, kwargs = tree_map_only(DTensor, self._whole, (args, kwargs or {}))
        result = func(*args, **kwargs)
        return next((sharded for sharded, whole in self._open.values() if result is whole), result)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._close(keep=set())

    def _whole(self, value: DTensor) -> Tensor:
        if id(value) not in self._open:
            without_slopes = cast(DTensor, value.detach())  # older PyTorch can't cut them off afterwards
            self._open[id(value)] = value, without_slopes.full_tensor()
        return self._open[id(value)][1]

    def _close(self, keep: set[int]) -> None:
        for key in self._open.keys() - keep:
            write(*self._open.pop(key))


def load_whole(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load whole weights before a model is split; parameters keep their dtypes.

    Those on the meta device become the given tensors, without a copy where these have the dtype.

    Args:
        module: not split yet.
        weights: its state dictionary.

    Raises:
        RuntimeError: if a weight is missing, unknown or of another shape.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is a no-op", UserWarning)  # on the meta device it only checks
        module.load_state_dict(weights)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            torch.utils.swap_tensors(
                parameter, nn.Parameter(weights[name].to(parameter.dtype), parameter.requires_grad)
            )


@torch.no_grad()
def widen(module: nn.Module) -> int:
    """Make the parameters that are trained float32 where they are in half precision; frozen ones stay as they are.

    An update of less than 1/256 of a bfloat16 weight is lost, which is most of them at usual learning rates.

    Args:
        module: not split yet.

    Returns:
        How many parameters were changed.
    """
    halves = [p for p in module.parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    for parameter in halves:
        parameter.data = parameter.data.float()
    return len(halves)


@torch.no_grad()
def write(parameter: Tensor, values: Tensor) -> None:
    """Write whole values into a parameter, of which this process may hold a part.

    Args:
        parameter: any shape.
        values: of the same shape, the same on every rank.
    """
    if isinstance(parameter, DTensor):
        part = parameter.to_local()
        part.copy_(cast(DTensor, split_like(values.to(part.device), parameter)).to_local())
    else:
        parameter.copy_(values)
