"""Whether parts are objects: a class or a function in their place is a call that was forgotten.

    DiffusionLM(backbone, process, sampler=low_confidence)      # low_confidence() was meant
    UnmaskingSampler(PerStep(1), order=Margin)                  # Margin()

Both used to be taken, and to fail at the first step with a message about something else.
"""

import dataclasses
import inspect
from typing import Any, get_args

_CALLED = ("Callable", "type[", "Type[", "Any")
"""In the annotation of a field that may well hold a function or a class."""

_SUCH_AS = {
    "optimizer": "torch.optim.AdamW, lr=3e-4",
    "lr_scheduler": "llada.training.lr_schedulers.WarmupCosine, warmup_steps=100, total_steps=2000",
}


def check_built(where: str, value: Any, kind: Any = object) -> None:
    """Look at a part, and at the parts inside of it.

    Args:
        where: the argument, such as "sampler".
        value: what was given; anything that is no part passes.
        kind: what it must be an object of, as ``isinstance`` takes it.

    Raises:
        TypeError: if it is a class or a function where an object belongs, or an object of another kind.
    """
    if inspect.isclass(value):
        raise TypeError(f"{where} is the class {value.__name__} itself; build an object of it: {value.__name__}(...)")
    if inspect.isfunction(value):
        raise TypeError(f"{where} is the function {value.__name__} itself; call it: {value.__name__}(...)")
    if not isinstance(value, kind):
        wanted = " or ".join(each.__name__ for each in get_args(kind) or (kind,) if each is not type(None))
        raise TypeError(f"{where} must be of the kind {wanted}; got {value!r:.80}, a {type(value).__name__}")
    if dataclasses.is_dataclass(value):
        check_fields(value, f"{where}.")


def check_fields(owner: Any, place: str = "") -> None:
    """Look at the fields of a part; exceptions as in `check_built`.

    Args:
        owner: a data class's object.
        place: what is written before the names of its fields.
    """
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        several = isinstance(value, tuple | list)
        # A name alone, as `from __future__ import annotations` leaves it, may stand for a function.
        open_to_all = isinstance(field.type, str) or any(word in str(field.type) for word in _CALLED)
        for index, each in enumerate(value if several else [value]):
            built = dataclasses.is_dataclass(each) and not inspect.isclass(each)
            if built or not open_to_all:
                name = f"{place}{field.name}" + (f"[{index}]" if several else "")
                check_built(name, each, field.type if _is_part(field.type) else object)


def _is_part(kind: Any) -> bool:
    """Whether it is a class of the house, of which a part must be an object."""
    return inspect.isclass(kind) and kind.__module__.startswith("llada.") and not getattr(kind, "_is_protocol", False)


def check_called(**functions: Any) -> None:
    """Whether what is called later can be.

    Args:
        functions: by their names as arguments, such as ``optimizer``; None is one that wasn't given.

    Raises:
        TypeError: if one can't be called, such as an optimizer that was built already.
    """
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise TypeError(
                f"{name} is called when training begins, so it must be a class or a function, such as "
                f"functools.partial({_SUCH_AS.get(name, '...')}); got {' '.join(repr(value).split())[:60]}, "
                f"a {type(value).__name__}"
            )
