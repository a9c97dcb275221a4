"""Which numbers a network can be built of."""

import math

MOST = {"num_layers": 10_000, "num_experts": 100_000}
"""Of what is built one by one, at most so many: ten times the largest that are known, and more."""
_LARGEST = 2**31 - 1


def check_sizes(*, least: int = 1, **sizes: int | None) -> None:
    """Whether sizes are whole numbers that a network can have.

    Args:
        least: the smallest.
        sizes: by their names as arguments; None is one that wasn't given.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, size in sizes.items():
        most = MOST.get(name, _LARGEST)
        if size is not None and not least <= size <= most:
            reach = f"{least} or more" if size < least else f"a whole number from {least} to {most:,}"
            raise ValueError(f"{name} must be {reach}; got {size}")


def check_positive(*, or_zero: bool = False, **numbers: float) -> None:
    """Whether numbers are finite and above 0.

    Args:
        or_zero: whether 0 will do, too.
        numbers: by their names as arguments.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, number in numbers.items():
        if not (math.isfinite(number) and (number > 0.0 or (or_zero and number == 0.0))):
            raise ValueError(f"{name} must be a finite number {'of 0 or more' if or_zero else 'above 0'}; got {number}")
