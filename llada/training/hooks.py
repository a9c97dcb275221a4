"""Hooks of ours that a subclass may override without ``super()``.

Lightning's own hooks do nothing, so nobody calls ``super()`` in them. What training needs is therefore in a callback
(`llada.training.loop`); only what Lightning asks the module alone for is in hooks of the module, and `surround` puts it
around whatever a subclass, a mixin or an assignment has made of the hook.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


def surround(
    module: nn.Module, name: str, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> None:
    """Make a hook run ours before and after what overrides it; a second call changes nothing.

    Args:
        module: whose hook it is; the change is of this object, not of its class.
        name: of the hook.
        before: ours, a method of the module. It runs twice where theirs calls ``super()``.
        after: ours as well.
    """
    theirs = getattr(module, name)
    if isinstance(theirs, partial) and theirs.func is _in_turn:
        return
    overridden = before is None or _function(theirs) is not _function(before)
    order = [before, theirs if overridden else None, after]
    setattr(module, name, partial(_in_turn, [function for function in order if function is not None]))


def _in_turn(functions: list[Callable[..., Any]], *arguments: Any) -> None:
    for function in functions:
        function(*arguments)


def _function(method: Callable[..., Any]) -> Any:
    return getattr(method, "__func__", method)
