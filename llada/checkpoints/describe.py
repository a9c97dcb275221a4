"""Components as plain data, and back: the dictionaries that LightningCLI writes into YAML.

    UnmaskingSampler(Quota(8))  <->  {"class_path": "llada.samplers.UnmaskingSampler",
                                      "init_args": {"commit": {"class_path": ..., "init_args": {"steps": 8}}, ...}}

Every component stores each constructor argument under its own name, so nothing has to be written down twice. A
checkpoint holds these dictionaries instead of pickled objects; on the way back a class may only be a subclass of the
part it fills. A class goes by its public name, so that the file it stands in can be moved.
"""

import enum
import functools
import sys
import types
from pathlib import PurePath
from typing import Any

from llada.checkpoints.building import UNDESCRIBED, build, check_buildable
from llada.checkpoints.known import known_class, unknown
from llada.checkpoints.signatures import LISTS, argument_names, constructor_hints, constructors, defaults

PLAIN = (bool, int, float, str, type(None))

__all__ = ["argument_names", "build", "constructor_hints", "describe", "describe_arguments"]


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
    if isinstance(value, enum.Enum):
        raise ValueError(f"can't describe {value!r}; keep enumerations as text or numbers, such as their name or value")
    if isinstance(value, PurePath):
        raise ValueError(f"can't describe {value!r}; keep paths as text, str(path)")
    return {"class_path": public_path(type(value)), "init_args": _arguments(value)}


def describe_arguments(model: Any) -> dict[str, Any]:
    """The constructor arguments of a model, as nested plain data.

    A model whose attribute ``undescribed`` is "weights" may have arguments that can't be described: in their place
    stands the reason, and `load_from_checkpoint` takes the argument, such as ``backbone=...``, or its default.

    Args:
        model: the module, with all its parts.

    Raises:
        ValueError: naming the part and what it lacks.
    """
    cls, found = type(model), {}
    hints = constructor_hints(cls)
    for name in argument_names(cls):
        try:
            found[name] = _argument(model, name)
            check_buildable(found[name], hints[name], name, cls)
        except ValueError as error:
            if getattr(model, "undescribed", "refuse") != "weights":
                raise ValueError(
                    f"{error}; or set model.undescribed = 'weights' (--undescribed=weights) to keep the weights alone, "
                    f"and load them with load_from_checkpoint({name}=...)"
                ) from error
            found[name] = {UNDESCRIBED: str(error)}
    return found


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
    name = path.rpartition(".")[2]
    found = known_class(path)
    if found is None and name == caller.__name__:
        return caller
    if found is None:
        raise ValueError(f"{unknown(path)}. Or call {name}.load_from_checkpoint where the class has moved")
    return found


def _partial_class(value: "functools.partial[Any]") -> type:
    """The class that a partial makes; jsonargparse's own partials carry it as the last positional argument."""
    candidates = [value.func, *value.args]
    for candidate in reversed(candidates):
        if isinstance(candidate, type):
            return candidate
    raise ValueError(f"can't describe {value}: it isn't a partial of a class")


def _arguments(value: Any) -> dict[str, Any]:
    cls = type(value)
    if not constructors(cls) and cls.__new__ is not object.__new__:  # type: ignore[comparison-overlap]
        raise ValueError(f"can't describe {value!r}; parts are made of plain data, lists, dictionaries and other parts")
    names = argument_names(cls)
    return {name: _argument(value, name) for name in names if not _is_torchs_own(cls, name)}


def _argument(value: Any, name: str) -> Any:
    cls = type(value)
    if cls in LISTS:
        return [describe(child) for child in value]
    if not hasattr(value, name):
        raise ValueError(
            f"{public_path(cls)} doesn't store its constructor argument {name!r} as an attribute, so a "
            f"checkpoint can't rebuild it; set self.{name} = {name} in its constructor"
        )
    found = getattr(value, name)
    if name == "bias" and _is_torchs(cls):  # a flag whose attribute is the parameter
        return bool(found) if isinstance(found, bool) else found is not None
    return describe(found)


def _is_torchs(cls: type) -> bool:
    found = constructors(cls)
    return bool(found) and found[0].__module__.startswith("torch.nn.")


def _is_torchs_own(cls: type, name: str) -> bool:
    """Whether an argument of a torch module says where it is made, or is for torch alone."""
    return _is_torchs(cls) and (name in ("device", "dtype") or name.startswith("_")) and name in defaults(cls)
