"""Whether a checkpoint of a model would come back as the same model, found out before it is trained for hours.

What is described of a model is built again on the meta device, where it costs no memory, and compared with the model:
the names and shapes of its weights, which of them are one, and the arguments of every part.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from llada.checkpoints.building import UNDESCRIBED, build
from llada.checkpoints.changes import differences
from llada.checkpoints.describe import describe, describe_arguments
from llada.checkpoints.plausible import check_plausible, made_without_storage
from llada.checkpoints.signatures import construct, constructor_hints

ALONE = ", or set model.undescribed = 'weights' (--undescribed=weights) to keep the weights and make the rest by hand"


def check_describable(model: Any) -> None:
    """Refuse a model whose checkpoint couldn't be built again, or would come back as another, before it is trained.

    Parts that read the values of tensors when they are built can't be compared.

    Args:
        model: the module, with all its parts.

    Raises:
        ValueError: naming the part and what it lacks, as `describe_arguments` does; or where what would be made of the
            description has other weights or other arguments.
    """
    cls, described = type(model), describe_arguments(model)
    hints = constructor_hints(cls)
    by_hand = {name for name, value in described.items() if _is_by_hand(value)}
    kept = getattr(model, "undescribed", "refuse") == "weights"
    for name in described.keys() - by_hand:
        make = partial(build, described[name], hints[name], name, cls)
        _check_part(name, getattr(model, name, None), described[name], make, kept)
    if not by_hand and not kept and not cls.__module__.startswith("llada."):
        _check_whole(model, described, hints)


def _is_by_hand(described: Any) -> bool:
    return (isinstance(described, dict) and UNDESCRIBED in described) or "<locals>" in str(described)


def _check_part(name: str, part: Any, described: Any, make: Any, kept: bool) -> None:
    if isinstance(part, nn.Module):
        again = check_plausible(make, part.state_dict(), f"a checkpoint of this {name}")
        if again is not None and not kept:
            _check_weights(part, again, f"this {name}")
    else:
        again = made_without_storage(make)
    if again is not None and not kept:
        _check_arguments(name, described, describe(again))


def _check_whole(model: Any, described: dict[str, Any], hints: Mapping[str, Any]) -> None:
    """Look at a class of a user's own: what it adds to the parts, and what it makes of its arguments."""
    cls = type(model)

    def make() -> Any:
        arguments = {name: build(value, hints[name], name, cls) for name, value in described.items()}
        try:
            return construct(cls, arguments)
        except TypeError as error:
            raise ValueError(f"{cls.__name__} can't be built from the arguments that it stores: {error}") from error

    again = check_plausible(make, model.state_dict(), f"a checkpoint of this {cls.__name__}")
    if again is None:
        return
    if getattr(model, "strict_loading", True):
        _check_weights(model, again, f"this {cls.__name__}")
    for name, value in describe_arguments(again).items():
        _check_arguments(name, described[name], value)


def _check_weights(part: nn.Module, again: nn.Module, what: str) -> None:
    """Load the names of weights as a checkpoint would, and compare which of them are one."""
    empty = {name: torch.empty(value.shape, device="meta") for name, value in part.state_dict().items()}
    try:
        missing, unexpected = again.load_state_dict(empty, strict=False)
    except (RuntimeError, TypeError, ValueError):  # a way of loading of its own, which needs the values
        missing, unexpected = [], []
    for name in unexpected:
        raise ValueError(
            f"a checkpoint of {what} would hold {name}, which its constructor doesn't make, so it couldn't be loaded; "
            f"make it in the constructor{ALONE}"
        )
    for name in missing:
        raise ValueError(
            f"a checkpoint of {what} would lack {name}, which its constructor makes, so it couldn't be loaded; take "
            f"it out in the constructor, or set strict_loading = False{ALONE}"
        )
    tied, tied_again = _tied(part), _tied(again)
    for names in tied_again - tied:
        raise ValueError(
            f"{what} has {' and '.join(sorted(names))} apart, which its constructor makes one, so that a checkpoint "
            f"would give back one of them for all; part them in the constructor{ALONE}"
        )
    for names in tied - tied_again:
        rank_zero_warn(
            f"a checkpoint of {what} will give back {' and '.join(sorted(names))} apart, which are one now; tie them "
            "in the constructor if it is to be trained further"
        )


def _tied(part: nn.Module) -> set[frozenset[str]]:
    """Names of parameters that are one, in groups."""
    groups: dict[int, list[str]] = {}
    for name, parameter in part.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def _check_arguments(name: str, described: Any, again: Any) -> None:
    changed = differences(name, described, again)
    if changed:
        place = changed[0].split(" was ")[0]
        raise ValueError(
            f"{place} would come back as another from a checkpoint ({changed[0].replace(' and is ', ', then ')}): its "
            f"class keeps something else under the name of the argument than it is given; keep the argument itself, "
            f"self.{place.rpartition('.')[2]}, and the result under another name{ALONE}"
        )
