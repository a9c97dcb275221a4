"""Components as plain data, and back: the dictionaries that LightningCLI writes into YAML.

    UnmaskingSampler(Quota(8))  <->  {"class_path": "llada.samplers.unmasking.UnmaskingSampler",
                                      "init_args": {"commit": {"class_path": ..., "init_args": {"steps": 8}}, ...}}

Every component stores each constructor argument under its own name, so nothing has to be written down twice. A
checkpoint holds these dictionaries instead of pickled objects; on the way back a class may only be a subclass of the
part it fills.
"""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

PLAIN = (bool, int, float, str, type(None))


def describe(value: Any) -> Any:
    """A component as nested plain data.

    Args:
        value: plain data, a component, a class, or a `functools.partial` of a class.

    Raises:
        TypeError: if a component doesn't store a constructor argument under its own name, or can't be described.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, type):
        return {"class_path": _path(value), "init_args": {}}
    if isinstance(value, functools.partial):
        return {"class_path": _path(_partial_class(value)), "init_args": describe(value.keywords)}
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        raise TypeError(f"can't describe the function {value}; use a class, or functools.partial of a class")
    return {"class_path": _path(type(value)), "init_args": _arguments(value)}


def build(description: Any, expected: Any) -> Any:
    """The component that `describe` described.

    Args:
        description: nested plain data.
        expected: annotation of the part that it fills, such as a class, ``X | None``, or ``Callable[..., X]`` for a
            partial.

    Raises:
        ValueError: if a class can't be found, isn't a subclass of what is expected, or refuses its arguments.
    """
    if isinstance(description, dict) and set(description) == {"class_path", "init_args"}:
        classes, deferred = _expected_classes(expected)
        cls = _import(description["class_path"])
        if not (isinstance(cls, type) and classes and issubclass(cls, tuple(classes))):
            names = " or ".join(c.__name__ for c in classes) or repr(expected)
            raise ValueError(f"{description['class_path']} is not a {names}, which this part must be; refusing it")
        hints = typing.get_type_hints(cls.__init__)
        arguments = {name: build(item, hints.get(name, Any)) for name, item in description["init_args"].items()}
        if deferred:
            return functools.partial(cls, **arguments)
        try:
            return cls(**arguments)
        except TypeError as error:
            raise ValueError(f"{description['class_path']} refuses its stored arguments: {error}") from error
    if isinstance(description, list):
        items = [build(item, _item_type(expected)) for item in description]
        return tuple(items) if _is_tuple(expected) else items
    return description


def _path(cls: type) -> str:
    if cls.__bases__[0].__name__ == "FSDPModule":  # FSDP2 gives a module a class of its own, which nobody can import
        cls = cls.__bases__[1]
    return f"{cls.__module__}.{cls.__qualname__}"


def _partial_class(value: "functools.partial[Any]") -> type:
    """The class that a partial makes; jsonargparse's own partials carry it as the last positional argument."""
    candidates = [value.func, *value.args]
    for candidate in reversed(candidates):
        if isinstance(candidate, type):
            return candidate
    raise TypeError(f"can't describe {value}: it isn't a partial of a class")


def _arguments(value: Any) -> dict[str, Any]:
    arguments = {}
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(value, name):
            raise TypeError(
                f"{_path(type(value))} doesn't store its constructor argument {name!r} as an attribute, so a "
                f"checkpoint can't rebuild it; set self.{name} = {name} in its constructor"
            )
        arguments[name] = describe(getattr(value, name))
    return arguments


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the class {path} can't be imported; install the package that holds it, or pass the part as an argument"
        ) from error


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _expected_classes(annotation: Any) -> tuple[list[type], bool]:
    """Classes that an annotation admits, and whether it asks for a callable that makes them."""
    classes: list[type] = []
    deferred = False
    for member in _members(annotation):
        if typing.get_origin(member) is Callable or member is Callable:
            deferred = True
            result = typing.get_args(member)[1] if typing.get_args(member) else Any
            classes += [c for c in _members(result) if isinstance(c, type)]
        elif isinstance(member, type) and member is not type(None):
            classes.append(member)
    return classes, deferred


def _is_tuple(annotation: Any) -> bool:
    return any(typing.get_origin(member) is tuple for member in _members(annotation))


def _item_type(annotation: Any) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) in (tuple, list):
            return typing.get_args(member)[0]
    return Any
