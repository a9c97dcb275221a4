"""Host waits of training steps and decoding calls, counted on a device that is one in name only; prints JSON.

Its tensors say that they are on "acc:0", compute on the CPU, and refuse to meet CPU tensors. Each operation that would
let the host wait for a GPU is counted: values that are read, places that are searched, data that is sent or fetched.
"""

import collections
import inspect
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.utils.backend_registration
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from llada.backbones import BidirectionalTransformer
from llada.objectives import NELBO, ExactCounts
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import PRESETS

NAME = "acc"
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "equal"}
"""Operations whose result the host must see before it goes on."""
MAY_MEET_NUMBERS = {"copy_", "_to_copy", "set_", "lift_fresh"}
waits: collections.Counter[str] = collections.Counter()


class Pretended(Tensor):
    """A tensor on the device, around one on the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "Pretended":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip

    def __init__(self, inner: Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretended({self.inner})"

    def tolist(self) -> Any:
        note("tolist")
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


def note(what: str) -> None:
    """Count a wait, with the line of the library that asked for it."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/llada/" not in frame.f_code.co_filename:
        frame = frame.f_back
    where = "the test" if frame is None else f"{frame.f_code.co_filename.rpartition('/llada/')[2]}:{frame.f_lineno}"
    waits[f"{what} at {where}"] += 1


def is_boolean_index(name: str, args: Any) -> bool:
    return (
        name.startswith("index")
        and len(args) > 1
        and isinstance(args[1], list | tuple)
        and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
    )


def computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its waits counted, its result on the device if it belongs there."""
    name = operation._schema.name.partition("::")[2]
    if name == "_fused_sdp_choice":
        return 0
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, Pretended)]
    others = [x for x in tensors if not isinstance(x, Pretended) and x.ndim]
    if here and others and name not in MAY_MEET_NUMBERS and not is_boolean_index(name, args):
        raise RuntimeError(f"expected all tensors on one device: {name}")
    wanted = kwargs.get("device")
    there = bool(here) if wanted is None else torch.device(wanted).type == NAME
    if here and (name in READS or is_boolean_index(name, args)):
        note(name)
    if name == "_to_copy" and bool(here) != there:
        note("sent" if there else "fetched")
    if name == "copy_" and isinstance(args[0], Pretended) != isinstance(args[1], Pretended):
        note("sent" if isinstance(args[0], Pretended) else "fetched")
    if wanted is not None and torch.device(wanted).type == NAME:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(Pretended, lambda x: x.inner, (args, kwargs))
    result = operation(*inner_args, **inner_kwargs)
    known = {id(x.inner): x for x in here}

    def outer(x: Tensor) -> Tensor:
        if id(x) in known:
            return known[id(x)]
        return Pretended(x) if there and x.device.type == "cpu" else x

    return tree_map_only(Tensor, outer, result)


class Mode(TorchDispatchMode):
    """Catches what makes tensors on the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


def make_tensor(made: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` onto the device, which sends what it is given."""

    def tensor(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        result = made(data, *args, **options)
        if device is None or torch.device(device).type != NAME:
            return result
        note("torch.tensor")
        return Pretended(result)

    return tensor


def moved(model: nn.Module) -> nn.Module:
    """A model with its parameters on the device."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(Pretended(parameter.detach()), parameter.requires_grad)
    return model


ROWS, LENGTH, NEW, VOCAB = 2, 16, 8, 32


def small() -> nn.Module:
    torch.manual_seed(0)
    return moved(BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2))


def counted(run: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    waits.clear()
    result = run()
    return result, dict(waits)


def step(objective: NELBO, model: nn.Module, batch: dict[str, Tensor]) -> None:
    """A micro-batch's, without the optimiser."""
    random = RowRandom.for_step(0, 0, torch.arange(ROWS, device=batch["tokens"].device), ROWS)
    objective(model, MaskingProcess(VOCAB - 1), batch, random=random).loss.backward()


def training() -> dict[str, dict[str, int]]:
    """Waits of a step by kind of batch."""
    model = small()
    tokens = Pretended(torch.randint(VOCAB - 1, (ROWS, LENGTH)))
    real = Pretended(torch.arange(LENGTH) < torch.tensor([[13], [9]]))
    segments = Pretended((torch.arange(LENGTH) // 5).expand(ROWS, -1).contiguous())
    batches = {"dense": {}, "padded": {"attention_mask": real}, "packed": {"segment_ids": segments}}
    found = {}
    for name, columns in batches.items():
        for objective in (NELBO(), NELBO(ExactCounts())):
            batch = {"tokens": tokens, **columns}
            found[f"{name}, {type(objective.design).__name__}"] = counted(partial(step, objective, model, batch))[1]
    return found


def preset(name: str) -> Any:
    """One of so many steps as there are masks, in blocks of half of them, where it may be said."""
    takes = inspect.signature(PRESETS[name]).parameters
    wanted = {"steps": NEW, "block_length": NEW // 2}
    return PRESETS[name](**{word: value for word, value in wanted.items() if word in takes})


def decoding(names: list[str]) -> dict[str, tuple[int, dict[str, int]]]:
    """Calls and waits of filling a canvas, by preset."""
    model, process = small().eval(), MaskingProcess(VOCAB - 1)
    canvas = torch.randint(VOCAB - 1, (ROWS, LENGTH))
    canvas[:, -NEW:] = VOCAB - 1
    found = {}
    for name in names:
        try:
            with torch.no_grad():
                sample, seen = counted(lambda name=name: preset(name)(model, Pretended(canvas.clone()), process))
        except Exception as error:
            found[name] = (0, {f"{type(error).__name__}: {error}": 1})
            continue
        found[name] = (int(sample.calls.max()), seen)
    return found


def main() -> None:
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME)
    torch.tensor = make_tensor(torch.tensor)  # type: ignore[assignment]
    torch.manual_seed(0)
    with Mode():
        found = {"training": training(), "decoding": decoding(sys.argv[1:] or list(PRESETS))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
