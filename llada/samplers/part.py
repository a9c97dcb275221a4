"""What all parts of a sampler share: each says itself which other parts it can't work with."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from llada.built import check_fields


class Part:
    """A part of a sampler.

    Attributes:
        reads_drawn: whether it looks at tokens that were drawn in this step (``state.drawn``, ``state.probability``).
            Where no part does, a text has a likelihood under the sampler (`llada.samplers.likelihood`).
        by_chance: whether it draws random numbers to choose positions or times.
    """

    reads_drawn: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False

    def check(self, sampler: Any) -> None:
        """Whether this part can work with the others; called when a sampler is put together.

        Args:
            sampler: the sampler, whose parts are attributes such as ``sampler.order`` and ``sampler.window``.

        Raises:
            ValueError: if it can't; the message says why and what to use instead.
        """
        return


def check_parts(sampler: Any, parts: Iterable[object]) -> None:
    """Whether the parts of a sampler can work with one another, and every number is one.

    Args:
        sampler: that is put together of them.
        parts: what it is given; whatever is no `Part` isn't asked.

    Raises:
        TypeError: if a part is of another kind, or a class or function whose call was forgotten.
        ValueError: if they can't work together.
    """
    check_fields(sampler)
    for part in parts:
        if isinstance(part, Part):
            part.check(sampler)
            check_numbers(part)
    check_numbers(sampler)


def with_inner(parts: Iterable[Part]) -> list[Part]:
    """Parts, and those inside of them, such as the order that another one turns.

    Args:
        parts: of a sampler.
    """
    found = list(parts)
    for part in found:  # which grows on the way
        values = vars(part).values() if hasattr(part, "__dict__") else ()
        found += [value for value in values if isinstance(value, Part)]
    return found


def check_numbers(owner: object) -> None:
    """Whether a part, or one inside of it, has a number that is none: every comparison with NaN is false.

    Raises:
        ValueError: if it has.
    """
    for name, value in vars(owner).items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name} of {type(owner).__name__} must be a number; got nan")
        if isinstance(value, Part):
            check_numbers(value)
