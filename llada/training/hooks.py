"""Hooks of ours that a subclass may override without ``super()``.

Lightning's own hooks do nothing, so nobody calls ``super()`` in them. What training needs is therefore in a callback
(`llada.training.loop`); only what Lightning asks the module alone for is in hooks of the module, and `run_first` puts
it in front of whatever a subclass, a mixin or an assignment has made of the hook.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


def run_first(module: nn.Module, name: str, own: Callable[..., Any]) -> None:
    """Make a hook run ours first and then what overrides it; a second call changes nothing.

    Args:
        module: whose hook it is; the change is of this object, not of its class.
        name: of the hook.
        own: ours, a method of the module. It may run twice, where theirs calls ``super()``.
    """
    theirs = getattr(module, name)
    if _function(theirs) is not _function(own) and not (isinstance(theirs, partial) and theirs.func is _both):
        setattr(module, name, partial(_both, own, theirs))


def run_last(module: nn.Module, name: str, own: Callable[..., Any]) -> None:
    """As `run_first`, with ours after theirs."""
    theirs = getattr(module, name)
    if _function(theirs) is not _function(own) and not (isinstance(theirs, partial) and theirs.func is _both):
        setattr(module, name, partial(_both, theirs, own))


def _both(first: Callable[..., Any], second: Callable[..., Any], *arguments: Any) -> None:
    first(*arguments)
    second(*arguments)


def _function(method: Callable[..., Any]) -> Any:
    return getattr(method, "__func__", method)
