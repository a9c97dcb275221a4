"""Which arguments a class takes, and how they are handed over: read from its constructors, along the inheritance.

A constructor that hands ``*args`` or ``**kwargs`` on takes the arguments of the next one in line, too. Annotations that
a subclass leaves out are those of the parent's argument of the same name.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from torch import nn

LISTS = (nn.Sequential, nn.ModuleList)
"""Modules of torch whose constructor takes a list of modules that it keeps as its children."""


def argument_names(cls: type) -> list[str]:
    """Names of a constructor's arguments, also of those that it hands on as ``*args`` or ``**kwargs``, in order."""
    if cls in LISTS:
        return ["args" if cls is nn.Sequential else "modules"]
    found: dict[str, None] = {}
    for constructor in constructors(cls):
        found |= {p.name: None for p in _parameters(constructor) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    last = constructors(cls)[-1:]  # *args that nobody else takes are this class's own list
    for parameter in _parameters(last[0]) if last else []:
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[parameter.name] = None
    return list(found)


def constructor_hints(cls: type) -> dict[str, Any]:
    """Names and annotations of a constructor's arguments, also of those handed on; None fits where it is default."""
    if cls in LISTS:
        return {name: list[nn.Module] for name in argument_names(cls)}
    annotations: dict[str, Any] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if inspect.isfunction(constructor):
            annotations = {**_hints(constructor), **annotations}
    found = {name: annotations.get(name, Any) for name in argument_names(cls)}
    for name, default in defaults(cls).items():
        if default is None and name in found:  # "size: int = None" is common, and means that None will do
            found[name] = typing.Optional[found[name]]  # noqa: UP045 - of a value, which may be a string
    return found


def defaults(cls: type) -> dict[str, Any]:
    """The arguments that have a default, with it."""
    found: dict[str, Any] = {}
    for constructor in constructors(cls):
        found = {p.name: p.default for p in _parameters(constructor) if p.default is not p.empty} | found
    return found


def construct(cls: type, arguments: Mapping[str, Any]) -> Any:
    """Call a class with arguments by their names, including those that it takes by position alone."""
    if cls in LISTS:
        (children,) = arguments.values()
        return nn.Sequential(*children) if cls is nn.Sequential else nn.ModuleList(children)
    own = _parameters(constructors(cls)[0]) if constructors(cls) else []
    kinds = {parameter.kind for parameter in own}
    rest = dict(arguments)
    if inspect.Parameter.VAR_KEYWORD in kinds or not kinds & {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.POSITIONAL_ONLY,
    }:
        return cls(**rest)
    positional: list[Any] = []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for parameter in own:
        if parameter.kind in by_place and parameter.name in rest:
            positional.append(rest.pop(parameter.name))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            keywords = {p.name for p in own if p.kind is p.KEYWORD_ONLY}
            if parameter.name in rest:
                positional += rest.pop(parameter.name)
            positional += [rest.pop(name) for name in list(rest) if name not in keywords]
    return cls(*positional, **rest)


def constructors(cls: type) -> list[Callable[..., None]]:
    """The constructors that see a class's arguments: its own, and those that get its ``*args`` or ``**kwargs``."""
    found: list[Callable[..., None]] = []
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        if found and owner is nn.Module:  # takes nothing
            break
        found.append(constructor)
        if all(p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in _parameters(constructor)):
            break
    return found


# A checkpoint asks for the same few hundred constructors thousands of times.
@lru_cache(1024)
def _parameters(constructor: Callable[..., None]) -> tuple[inspect.Parameter, ...]:
    """All but the first, whatever that is called."""
    return tuple(inspect.signature(constructor).parameters.values())[1:]


def _hints(constructor: Callable[..., None]) -> Mapping[str, Any]:
    try:
        return _known_hints(constructor)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import, or that are defined later
        return {}


@lru_cache(1024)
def _known_hints(constructor: Callable[..., None]) -> Mapping[str, Any]:
    return MappingProxyType(typing.get_type_hints(constructor))
