"""Which classes and presets could stand in a place of a configuration, and which arguments they take."""

import collections.abc
import inspect
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from llada.checkpoints.signatures import argument_names, constructor_hints, defaults

_OTHERS = ("torch.optim", "torch.optim.lr_scheduler", "lightning.pytorch.callbacks", "lightning.pytorch.loggers")


def arguments_of(path: str) -> list[str]:
    """Names of the arguments of a class or function.

    Args:
        path: its class path.
    """
    found = loaded(path)
    if inspect.isclass(found):
        return argument_names(found)
    return list(inspect.signature(found).parameters) if callable(found) else []


def argument_kinds(path: str) -> dict[str, Any]:
    """Names and types of the arguments of a class or function."""
    found = loaded(path)
    if inspect.isclass(found):
        return constructor_hints(found)
    try:
        return {p.name: p.annotation for p in inspect.signature(found).parameters.values()}
    except (TypeError, ValueError):
        return {}


def argument_defaults(path: str) -> dict[str, Any]:
    """The arguments of a class or function that have a default, with it."""
    found = loaded(path)
    if inspect.isclass(found):
        return defaults(found)
    try:
        return {p.name: p.default for p in inspect.signature(found).parameters.values() if p.default is not p.empty}
    except (TypeError, ValueError):
        return {}


def choices(kind: Any) -> list[str]:
    """Short names of what may stand where a type is asked for; without a type, of all public parts.

    Args:
        kind: the annotation, such as ``Sampler | None`` or ``Callable[[Iterable], Optimizer]``.
    """
    bases = tuple(_classes(kind))
    fitting = {name: getattr(module, name) for module, name in _public() if _fits(getattr(module, name, None), bases)}
    if [base.__qualname__ for base in bases] == ["Module"]:  # any module will do, but networks are meant
        fitting = {name: part for name, part in fitting.items() if hasattr(part, "hidden")}
    return sorted(fitting)


def public_path(kind: Any, name: str) -> str | None:
    """The class path of what `choices` calls by a short name; None if nothing has it.

    Args:
        kind: the annotation, as there; or several classes.
        name: such as "AdamW".
    """
    bases = kind if isinstance(kind, tuple) else tuple(_classes(kind))
    paths = [f"{m.__name__}.{n}" for m, n in _public() if n == name and _fits(getattr(m, n, None), bases)]
    return min(paths, key=len, default=None)


def _public() -> Iterator[tuple[ModuleType, str]]:
    """Modules of the house, PyTorch and Lightning that are imported, with their public names."""
    for module in [m for path, m in sys.modules.items() if path.startswith("llada.") or path in _OTHERS]:
        yield from ((module, name) for name in getattr(module, "__all__", ()))


def _fits(candidate: Any, bases: tuple[type, ...]) -> bool:
    if inspect.isfunction(candidate):
        try:
            candidate = typing.get_type_hints(candidate).get("return") or inspect.signature(candidate).return_annotation
        except (NameError, TypeError, ValueError):
            return False
    elif inspect.isabstract(candidate):
        return False
    return inspect.isclass(candidate) and (not bases or issubclass(candidate, bases))


def _classes(kind: Any) -> Iterator[type]:
    """The classes that a type is made of; of a callable, what it returns."""
    if inspect.isclass(kind) and kind is not type(None):
        if kind.__module__ not in ("builtins", "collections.abc"):
            yield kind
        return
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is collections.abc.Callable:
        parts = parts[-1:]
    for part in parts:
        if not isinstance(part, list):
            yield from _classes(part)


def loaded(path: str) -> Any:
    """The class or function of a class path; None if there is none.

    Args:
        path: such as "llada.samplers.MaxProbability".
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None) if module else None
    except ImportError:
        return None
