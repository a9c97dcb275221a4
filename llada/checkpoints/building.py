"""Components from plain data that anybody may have written: checked, bounded, and only of the kind that is expected.

The way back from `llada.checkpoints.describe.describe`. Every complaint names the place, such as
``parts.sampler.init_args.rates``.
"""

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from llada.checkpoints.known import is_trusted, known_class, unknown
from llada.checkpoints.signatures import construct, constructor_hints

MAX_DEPTH, MAX_VALUES = 64, 100_000
"""Limits of a description: its depth, and its values, of which shared ones count each time."""

UNDESCRIBED = "undescribed"
"""Key of what stands in place of a part that couldn't be described: the reason."""


def build(description: Any, expected: Any, where: str = "the part", owner: type | None = None) -> Any:
    """The component that `describe` described.

    Args:
        description: nested plain data.
        expected: annotation of the part that it fills, such as a class, ``X | None``, or ``Callable[..., X]`` for a
            partial.
        where: what messages call the part.
        owner: class whose argument it is; one that it left without annotation may be of its own package.

    Raises:
        ValueError: if a class isn't known, isn't a subclass of what is expected, or refuses its arguments; if a value
            is of another type than expected; or if the description is too large.
    """
    check_size(description, where)
    return _build(description, expected, where, owner, construct)


def check_buildable(description: Any, expected: Any, where: str, owner: type | None = None) -> None:
    """Refuse what `build` would refuse, without making anything; classes within functions, which need a hand, pass.

    Raises:
        ValueError: as by `build`.
    """
    check_size(description, where)
    _build(description, expected, where, owner, None)


def check_size(description: Any, where: str) -> None:
    """Refuse descriptions that are nested too deeply or hold too many values, before anything is done with them.

    Raises:
        ValueError: naming the limit.
    """
    waiting, count = [(description, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep, which no model is")
        if count > MAX_VALUES:
            raise ValueError(f"{where} holds more than {MAX_VALUES} values, which no model has")
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(item, depth + 1) for item in value]


Make = Callable[[type, dict[str, Any]], Any] | None


def _build(description: Any, expected: Any, where: str, owner: type | None, make: Make) -> Any:
    if isinstance(description, dict) and "class_path" in description:
        return _component(description, expected, where, owner, make)
    if isinstance(description, list | tuple):
        item = _item_type(expected)
        _check_plain(description, expected, where)
        items = [_build(value, item, f"{where}[{place}]", owner, make) for place, value in enumerate(description)]
        return tuple(items) if _is_tuple(expected) else items
    if isinstance(description, dict):
        _check_plain(description, expected, where)
        value_type = _value_type(expected)
        return {key: _build(value, value_type, f"{where}.{key}", owner, make) for key, value in description.items()}
    if make is not None:
        _check_plain(description, expected, where)
    return description


def _component(description: dict[str, Any], expected: Any, where: str, owner: type | None, make: Make) -> Any:
    path, given = description["class_path"], description.get("init_args")
    if not isinstance(path, str) or not isinstance(given, dict) or len(description) != 2:
        raise ValueError(f"{where} must have a class_path, a text, and init_args, names with values; got others")
    cls = known_class(path)
    if cls is None and make is None and "<locals>" in path:
        return None
    if cls is None:
        raise ValueError(f"{where}: {unknown(path)}")
    classes, deferred = expected_classes(expected)
    if not (issubclass(cls, tuple(classes)) if classes else _may_be_anything(cls, expected, owner)):
        names = " or ".join(c.__name__ for c in classes) or f"part of the kind {expected}"
        raise ValueError(f"{where}: {path} is not a {names}, which this part must be; refusing it")
    hints = constructor_hints(cls)
    unlike = [name for name in given if not isinstance(name, str) or (hints and name not in hints)]
    if unlike and not deferred:
        raise ValueError(f"{where}: {path} has no argument {unlike[0]!r}; it has {', '.join(hints)}")
    arguments = {
        name: _build(value, hints.get(name, Any), f"{where}.{name}", cls, make) for name, value in given.items()
    }
    if make is None:
        return None
    return functools.partial(cls, **arguments) if deferred else _make(make, cls, arguments, f"{where}: {path}")


def _make(make: Callable[[type, dict[str, Any]], Any], cls: type, arguments: dict[str, Any], what: str) -> Any:
    try:
        return make(cls, arguments)
    except RecursionError as error:
        raise ValueError(f"{what} never ends being built") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{what} refuses its stored arguments: {error}") from error


def _may_be_anything(cls: type, expected: Any, owner: type | None) -> bool:
    """Whether a part without annotation may be of a class: a module, or of a package that is trusted with the rest."""
    if expected is not Any and expected is not object:
        return False
    package = None if owner is None else owner.__module__.partition(".")[0]
    return issubclass(cls, nn.Module) or is_trusted(cls) or cls.__module__.partition(".")[0] == package


def expected_classes(annotation: Any) -> tuple[list[type], bool]:
    """Classes that an annotation admits, and whether it asks for a callable that makes them."""
    classes: list[type] = []
    deferred = False
    for member in _members(annotation):
        if Callable in (typing.get_origin(member), member):
            deferred = True
            result = typing.get_args(member)[1] if typing.get_args(member) else Any
            classes += [c for c in _members(result) if isinstance(c, type)]
        elif isinstance(member, type) and member not in (type(None), object, Any):
            classes.append(member)
    return classes, deferred


def _check_plain(value: Any, annotation: Any, where: str) -> None:
    """Refuse plain data of another type than an annotation admits; annotations that say nothing of that admit it."""
    members = _members(annotation)
    if any(_admits(member, value) for member in members):
        return
    names = " or ".join(getattr(member, "__name__", str(member)) for member in members)
    raise ValueError(f"{where} is {_brief(value)}, but must be {names}")


def _admits(member: Any, value: Any) -> bool:
    origin = typing.get_origin(member)
    if member is Any:
        return True
    if member in (None, type(None)):
        return value is None
    if origin is typing.Literal:
        return value in typing.get_args(member)
    if origin in (list, tuple, Sequence) or member in (list, tuple):
        return isinstance(value, list | tuple)
    if origin in (dict, Mapping) or member is dict:
        return isinstance(value, dict)
    if Callable in (origin, member):
        return False
    if member is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if member is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(member, type) or isinstance(value, member)


def _brief(value: Any) -> str:
    shown = repr(value) if isinstance(value, bool | int | float | str | None) else f"a {type(value).__name__}"
    return shown if len(shown) <= 100 else shown[:100] + "..."


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_tuple(annotation: Any) -> bool:
    return any(typing.get_origin(member) is tuple or member is tuple for member in _members(annotation))


def _item_type(annotation: Any) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) in (tuple, list, Sequence):
            return typing.get_args(member)[0]
    return Any


def _value_type(annotation: Any) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) in (dict, Mapping):
            return typing.get_args(member)[1]
    return Any
