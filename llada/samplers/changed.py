"""A sampler with another temperature, or another of the numbers that its parts hold."""

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from llada.samplers.published.preset import PRESETS
from llada.samplers.sampler import Sampler


def with_argument(sampler: Sampler, name: str, value: Any) -> Sampler:
    """A sampler in which the one part that has an argument of a name gets another value.

    Args:
        sampler: a dataclass of parts.
        name: such as "temperature".
        value: of it.

    Raises:
        ValueError: if no part of it has such an argument, or more than one, or the part refuses the value.
    """
    places = list(_places(sampler, name))
    if len(places) != 1:
        why = f"{len(places)} parts with a {name}" if places else f"no {name}"
        raise ValueError(
            f"the {name} of the model's own sampler can't be changed: {type(sampler).__name__} has {why}; name a "
            f"preset as the sampler: {', '.join(having(name))}"
        )
    changed: Sampler = _replaced(sampler, places[0], value)
    return changed


def having(name: str) -> list[str]:
    """The presets with an argument of a name."""
    return [preset for preset, build in PRESETS.items() if name in inspect.signature(build).parameters]


def _places(part: Any, name: str) -> Iterator[tuple[str, ...]]:
    """The paths of the parts that have an argument of a name."""
    if not is_dataclass(part):
        return
    for field in fields(part):
        if field.name == name:
            yield (name,)
        for path in _places(getattr(part, field.name), name):
            yield (field.name, *path)


def _replaced(part: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return replace(part, **{name: _replaced(getattr(part, name), tuple(rest), value) if rest else value})
