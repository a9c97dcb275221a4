"""Whether a description makes the model whose weights lie beside it, found out before memory is spent on it.

A description may say ``num_layers: 2147483648``. So the model is first made on the meta device, where tensors have
shapes and no storage, and its tensors are counted while they are made: a model has about as many as its file. Then
their shapes are compared with the stored ones.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from llada.checkpoints.resumable import check_kinds


@contextmanager
def limited(weights: Mapping[str, Any]) -> Iterator[None]:
    """Refuse to go on making modules when there are far more than some stored weights can belong to.

    Args:
        weights: the stored ones, by name.

    Raises:
        ValueError: naming both numbers.
    """
    most, made = (
        {"parameters": 4 * len(weights) + 64, "modules": 32 * len(weights) + 512},
        {"parameters": 0, "modules": 0},
    )

    def count(kind: str) -> Callable[..., None]:
        def one_more(*_: Any) -> None:
            made[kind] += 1
            if made[kind] > most[kind]:
                raise ValueError(
                    f"the description makes more than {most[kind]} {kind}, but the file holds {len(weights)} tensors"
                )

        return one_more

    hooks = [
        register_module_parameter_registration_hook(count("parameters")),
        register_module_module_registration_hook(count("modules")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def made_without_storage(make: Callable[[], Any]) -> Any:
    """What ``make`` makes on the meta device; None if a constructor reads the values of tensors, which aren't there.

    Raises:
        ValueError: as by ``make``.
    """
    try:
        with torch.device("meta"):
            return make()
    except ValueError as error:
        if _needs_values(error):
            return None
        raise
    except (NotImplementedError, RuntimeError):
        return None


def check_plausible(make: Callable[[], nn.Module], weights: Mapping[str, Tensor], path: str | Path) -> nn.Module | None:
    """Make a model on the meta device and compare its tensors with the stored ones.

    A class whose constructor reads the values of tensors can't be made there; then only the number of its modules is
    limited, when it is made in earnest.

    Args:
        make: makes the model.
        weights: the stored tensors by name.
        path: of the file, for messages.

    Returns:
        The model, without values; None if it can't be made there.

    Raises:
        ValueError: if it makes far too many tensors, or one has another shape or kind of number.
    """
    model: nn.Module | None = made_without_storage(make)
    if model is None:
        return None
    own = model.state_dict()
    check_kinds(weights, own, path)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    for name, stored in weights.items():
        if name in shapes and shapes[name] != tuple(stored.shape):
            raise ValueError(
                f"{path} describes parts that make {name} of the shape {shapes[name]}, but the weights there "
                f"have {tuple(stored.shape)}"
            )
    return model


def _needs_values(error: BaseException | None) -> bool:
    """Whether what went wrong first is that a tensor on the meta device has no values."""
    while error is not None:
        if isinstance(error, NotImplementedError | RuntimeError) and "meta" in str(error).lower():
            return True
        error = error.__cause__
    return False
