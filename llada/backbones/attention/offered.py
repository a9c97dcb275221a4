"""What the installed torch and packages offer for attention on CUDA, found out once, without asking the device again.

`torch.compile` takes each answer for a constant. It would trace the search otherwise, and can't. Answers are tuples,
because it can't look into the sets of a constant.
"""

import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch

FLASH_2, FLASH_3 = "flash_attn.flash_attn_interface", "flash_attn_interface"
"""Modules of FlashAttention 2 and 3. Version 4 has the same package name, flash_attn, but no such module."""

VARLEN = "torch.nn.attention.varlen"
"""Module of PyTorch's own attention over runs."""

F = TypeVar("F", bound=Callable[..., Any])
_found: dict[Any, Any] = {}


def _constant(function: F) -> F:
    """What `torch.compiler.assume_constant_result` does; that would load the compiler, which takes seconds."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a CUDA device, such as (9, 0).

    Args:
        index: of the device.
    """
    if index not in _found:
        _found[index] = torch.cuda.get_device_capability(index)
    found: tuple[int, int] = _found[index]
    return found


@_constant
def installed() -> tuple[str, ...]:
    """Which of `FLASH_2` and `FLASH_3` are there and can be imported; one that is there but can't is warned of."""
    if "installed" not in _found:
        _found["installed"] = tuple(name for name in (FLASH_2, FLASH_3) if _is_there(name) and _works(name))
    found: tuple[str, ...] = _found["installed"]
    return found


@_constant
def varlen_arguments() -> tuple[str, ...] | None:
    """Names of the arguments that PyTorch's attention over runs takes, which differ by release; None without it."""
    if "varlen" not in _found:
        _found["varlen"] = _varlen_arguments()
    found: tuple[str, ...] | None = _found["varlen"]
    return found


def forget() -> None:
    """Search anew when next asked."""
    _found.clear()


def _is_there(name: str) -> bool:
    """Whether a module is installed, without importing it or the package that it is in."""
    package, _, module = name.partition(".")
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # something that stands in for it
        return False
    if spec is None or not module:
        return spec is not None
    return any(Path(place, f"{module}.py").exists() for place in spec.submodule_search_locations or ())


def _works(name: str) -> bool:
    try:
        import_module(name)
    except Exception as error:  # built against another torch, it may fail in any way
        package = name.partition(".")[0]
        warnings.warn(
            f"the package {package} is installed but can't be imported, so attention does without it: "
            f"{type(error).__name__}: {error}. Build it against torch {torch.__version__} (pip install flash-attn "
            "--no-build-isolation --force-reinstall --no-deps), or remove it",
            stacklevel=2,
        )
        return False
    return True


def _varlen_arguments() -> tuple[str, ...] | None:
    try:
        return tuple(inspect.signature(import_module(VARLEN).varlen_attn).parameters)
    except (ImportError, AttributeError):  # older than 2.10
        return None
