"""How far the gradients of gradients.py are from one another, and finite differences from the truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gradients import (
    Function,
    batched_central,
    batched_forward,
    batched_one_sided,
    build,
    central,
    directional,
    entries,
    one_sided,
    reverse,
)
from torch import Tensor
from torch.func import jvp

CHUNK = 64
"""Directions of a batched pass."""


class Agreement(NamedTuple):
    """Whole gradients compared with reverse mode's."""

    errors: dict[str, list[float]]
    """Largest deviation over the largest entry, in double and in single precision, by method."""
    count: int
    """Parameters, N."""
    touched: int
    """Of them those that the batch has a derivative for: rows of the embedding that aren't in it have none."""
    library: float
    """Deviation of the loss from that of the library's objective."""


def agreement(model: tuple[int, int]) -> Agreement:
    """Whole gradients of a model (width, layers) in double and single precision."""
    errors: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.float64):
        f, epsilon = Function(build(*model, dtype=dtype)), torch.finfo(dtype).eps
        gradient, value = reverse(f)
        for name, other in (
            ("forward mode", batched_forward(f, CHUNK)),
            ("central difference", batched_central(f, CHUNK, epsilon ** (1 / 3))),
            ("one-sided difference", batched_one_sided(f, CHUNK, epsilon**0.5)),
        ):
            errors.setdefault(name, []).insert(0, float((other - gradient).abs().max() / gradient.abs().max()))
    same = abs(float(f.loss.library().detach() - value))
    return Agreement(errors, len(f.point), int((gradient != 0).sum()), same)


@dataclass(frozen=True)
class Valley:
    """Error of finite differences against the step, root mean square over entries, relative to the gradient's."""

    dtype: str
    steps: list[float]
    one_sided: list[float]
    central: list[float]
    predicted: tuple[float, float]
    """Steps at which truncation and rounding together should be least."""

    def best(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Step and error of the lowest point of each curve."""
        lowest = [min(range(len(c)), key=c.__getitem__) for c in (self.one_sided, self.central)]
        return tuple((self.steps[i], c[i]) for i, c in zip(lowest, (self.one_sided, self.central), strict=True))  # type: ignore[return-value]


def valleys(model: tuple[int, int], count: int = 32, per_decade: int = 3) -> list[Valley]:
    """The error in double and in single precision, with steps from 1e-13 to 1.

    Args:
        model: width and layers.
        count: of entries of the gradient.
        per_decade: steps between h and 10 h.

    Predicted: the minimum over h of h |f''| / 2 + 2 eps |f| / h, and of h^2 |f'''| / 6 + eps |f| / h, with the root
    mean square of the derivatives over the same entries.
    """
    exact = Function(build(*model, dtype=torch.float64))
    gradient, value = reverse(exact)
    places = gradient.abs().argsort(descending=True)[: len(gradient) // 2]
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(3))[:count]].tolist()
    second, third = _curvature(exact, places)
    wanted, found = gradient[places], []
    for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32")):
        f, epsilon = Function(build(*model, dtype=dtype)), torch.finfo(dtype).eps
        start = f(f.point).detach()
        smallest = 13 if dtype == torch.float64 else 7
        steps = [10.0 ** (k / per_decade) for k in range(-smallest * per_decade, 1)]
        curves: tuple[list[float], list[float]] = ([], [])
        for h in steps:
            one = entries(lambda k, f=f, h=h, v=start: one_sided(f, places[k], h, v), len(places))
            two = entries(lambda k, f=f, h=h: central(f, places[k], h), len(places))
            for curve, got in zip(curves, (one, two), strict=True):
                curve.append(float((got.double() - wanted).norm() / wanted.norm()))
        rounding = epsilon * abs(float(value))
        least = 2.0 * math.sqrt(rounding / second), (3.0 * rounding / third) ** (1 / 3)
        found.append(Valley(name, steps, *curves, least))
    return found


def _curvature(f: Function, places: list[int]) -> tuple[float, float]:
    """Root mean squares of f'' and f''' along some coordinates, by nested forward mode."""

    def along(place: int) -> tuple[Tensor, Tensor]:
        unit = torch.nn.functional.one_hot(torch.tensor(place), len(f.point)).to(f.point)
        one, zero = torch.ones((), dtype=unit.dtype), torch.zeros((), dtype=unit.dtype)

        def first(s: Tensor) -> Tensor:
            return jvp(lambda r: f(f.point + r * unit), (s,), (one,))[1]

        return jvp(first, (zero,), (one,))[1], jvp(lambda s: jvp(first, (s,), (one,))[1], (zero,), (one,))[1]

    second, third = (torch.stack(values) for values in zip(*map(along, places), strict=True))
    return float(second.square().mean().sqrt()), float(third.square().mean().sqrt())


class Descent(NamedTuple):
    """Losses of gradient descent by each method's gradient."""

    losses: dict[str, list[float]]

    def deviation(self) -> dict[str, float]:
        """Largest difference of a loss from that of reverse mode, by method."""
        wanted = self.losses["reverse mode"]
        return {
            name: max(abs(a - b) for a, b in zip(losses, wanted, strict=True))
            for name, losses in self.losses.items()
            if name != "reverse mode"
        }


def curves(model: tuple[int, int], steps: int, rate: float = 0.5) -> Descent:
    """Gradient descent of a model (width, layers) by each method, in double precision."""
    methods: dict[str, Callable[[Function], Tensor]] = {
        "reverse mode": lambda f: reverse(f)[0],
        "forward mode": lambda f: batched_forward(f, CHUNK),
        "central difference": lambda f: batched_central(f, CHUNK, 6e-6),
    }
    losses: dict[str, list[float]] = {name: [] for name in methods}
    for name, method in methods.items():
        f = Function(build(*model, dtype=torch.float64))
        for _ in range(steps):
            losses[name].append(float(f(f.point)))
            f.point.sub_(rate * method(f))
    return Descent(losses)


def one_direction(model: tuple[int, int], draws: int = 64) -> tuple[float, float]:
    """Relative error of a gradient estimated from random directions, measured and expected: sqrt((N + 1) / draws)."""
    f = Function(build(*model))
    gradient = reverse(f)[0]
    noise = torch.randn(draws, len(f.point), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        estimate = torch.stack([directional(f, v) * v for v in noise]).mean(0)
    return float((estimate - gradient).norm() / gradient.norm()), math.sqrt((len(f.point) + 1) / draws)
