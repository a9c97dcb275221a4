"""Which keyword arguments a model takes, asked of its own function."""

import inspect
from collections.abc import Callable
from typing import Any


def names(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of this name; not if it doesn't tell."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def accepted(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a function gets: a mask that hides nothing is left out if it doesn't take one.

    Args:
        function: the model's own.
        name: of the model, for the message.
        arguments: keyword arguments.

    Raises:
        ValueError: if it doesn't take an argument that matters.
    """
    if not arguments:
        return arguments
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not every callable tells
        return arguments
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    unknown = [argument for argument in arguments if argument not in parameters]
    for argument in unknown:
        if argument == "attention_mask" and bool(arguments[argument].bool().all()):
            continue
        raise ValueError(
            f"{name} doesn't take {argument!r}, which this batch needs"
            + (": it has padding; give the model that argument, or rows of one length" if "mask" in argument else "")
        )
    return {argument: value for argument, value in arguments.items() if argument not in unknown}
