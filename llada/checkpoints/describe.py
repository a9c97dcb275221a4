"""Components as plain data, and back: the dictionaries that LightningCLI writes into YAML.

    UnmaskingSampler(Quota(8))  <->  {"class_path": "llada.samplers.UnmaskingSampler",
                                      "init_args": {"commit": {"class_path": ..., "init_args": {"steps": 8}}, ...}}

Every component stores each constructor argument under its own name, so nothing has to be written down twice. A
checkpoint holds these dictionaries instead of pickled objects; on the way back a class may only be a subclass of the
part it fills. A class goes by its public name, so that the file it stands in can be moved.
"""

import functools
import inspect
import pkgutil
import sys
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
        ValueError: if a component doesn't store a constructor argument under its own name, or can't be described.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, type):
        return {"class_path": public_path(value), "init_args": {}}
    if isinstance(value, functools.partial):
        return {"class_path": public_path(_partial_class(value)), "init_args": describe(value.keywords)}
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        raise ValueError(f"can't describe the function {value}; use a class, or functools.partial of a class")
    return {"class_path": public_path(type(value)), "init_args": _arguments(value)}


def check_describable(model: Any) -> None:
    """Refuse a model whose checkpoint couldn't be built again, before it is trained.

    Args:
        model: the module, with all its parts.

    Raises:
        ValueError: naming the part and what it lacks, as `describe` does.
    """
    describe(model)


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
        hints = constructor_hints(cls)
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


def public_path(cls: type) -> str:
    """The name by which users import a class: that of the shortest package which exports it under its own name.

    ``llada.samplers.UnmaskingSampler`` is defined in ``llada/samplers/unmasking.py``; a package of one's own gets the
    same treatment, and a class that no package exports goes by the module that defines it.
    """
    if cls.__bases__ and cls.__bases__[0].__name__ == "FSDPModule":  # FSDP2 derives a class that nobody can import
        cls = cls.__bases__[1]
    packages = cls.__module__.split(".")
    for depth in range(1, len(packages)):
        package = ".".join(packages[:depth])
        if getattr(sys.modules.get(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def loaded_class(path: str, caller: type) -> type:
    """The class of a public name, without importing anything but modules of this package.

    Args:
        path: name as `public_path` returns it.
        caller: class that is asked for; it is taken where ``path`` leads nowhere but ends in its name, so that a class
            of one's own can be moved, also out of the script that was run (``__main__``).

    Raises:
        ValueError: if it isn't a class that is known by now, saying how to make it known.
    """
    module, _, name = path.rpartition(".")
    found: Any = _import(path) if path.startswith("llada.") else _among_loaded(path)
    if found is None and name == caller.__name__:
        return caller
    if not isinstance(found, type):
        raise ValueError(
            f"the class {path} isn't known; import it first (from {module} import {name}), since loading a file "
            f"imports nothing on its own, or call {name}.load_from_checkpoint where the class has moved"
        )
    return found


def _among_loaded(path: str) -> Any:
    """What a name stands for in the modules that are imported by now; None if they don't have it."""
    names = path.split(".")
    for depth in range(len(names) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(names[:depth]))
        for name in names[depth:]:
            found = getattr(found, name, None)
        if found is not None:
            return found
    return None


def constructor_hints(cls: type) -> dict[str, Any]:
    """Names and annotations of a constructor's arguments, also of those that it hands on as ``**kwargs``."""
    annotations: dict[str, Any] = {}
    for constructor in _constructors(cls):
        annotations = typing.get_type_hints(constructor) | annotations
    return {name: annotations.get(name, Any) for name in argument_names(cls)}


def argument_names(cls: type) -> list[str]:
    """Names of a constructor's arguments, also of those that it hands on as ``**kwargs``, in order."""
    found: dict[str, None] = {}
    for constructor in _constructors(cls):
        _, *parameters = inspect.signature(constructor).parameters.values()
        found |= {p.name: None for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return list(found)


def _constructors(cls: type) -> list[Callable[..., None]]:
    """The constructors that see an argument given by name: a class's own, and those that get its ``**kwargs``."""
    found: list[Callable[..., None]] = []
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        found.append(constructor)
        if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values()):
            break
    return found


def _partial_class(value: "functools.partial[Any]") -> type:
    """The class that a partial makes; jsonargparse's own partials carry it as the last positional argument."""
    candidates = [value.func, *value.args]
    for candidate in reversed(candidates):
        if isinstance(candidate, type):
            return candidate
    raise ValueError(f"can't describe {value}: it isn't a partial of a class")


def _arguments(value: Any) -> dict[str, Any]:
    cls, arguments = type(value), {}
    if not _constructors(cls) and cls.__new__ is not object.__new__:  # type: ignore[comparison-overlap]
        raise ValueError(f"can't describe {value!r}; parts are made of plain data, lists, dictionaries and other parts")
    for name in argument_names(cls):
        if not hasattr(value, name):
            raise ValueError(
                f"{public_path(cls)} doesn't store its constructor argument {name!r} as an attribute, so a "
                f"checkpoint can't rebuild it; set self.{name} = {name} in its constructor"
            )
        arguments[name] = describe(getattr(value, name))
    return arguments


def _import(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)
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
