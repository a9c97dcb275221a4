"""What the gradients of gradients.py cost: time against the number of parameters, operations, memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gradients import (
    Function,
    Timing,
    batched_central,
    batched_forward,
    batched_one_sided,
    build,
    central,
    checkpointed,
    directional,
    entries,
    flops,
    forward,
    interleaved,
    one_sided,
    reverse,
    saved_bytes,
    seconds,
)
from torch import Tensor

CHUNK, SAMPLED, ROUNDS, BUDGET = 64, 64, 20, 20.0
"""Directions of a batched pass, entries that are timed where not all can be, repetitions, and seconds for them."""
TARGET = 1e7
STEP = 1e-2
"""Of the differences that are timed; it doesn't matter for the time."""


class Law(NamedTuple):
    """Seconds of a whole gradient of some of the parameters, all of it computed."""

    method: str
    seconds: list[float]
    slope: float


def laws(model: tuple[int, int], counts: Sequence[int]) -> tuple[list[Law], list[int]]:
    """Time against the number of differentiated parameters, at a fixed cost of the loss.

    Args:
        model: width and layers.
        counts: of parameters; 0 for all of them.

    Returns:
        The laws, and the counts.
    """
    loss = build(*model)
    counts = [count or len(Function(loss).all) for count in counts]
    rows = [_methods(Function(loss, count), count) for count in counts]
    found = []
    for name in rows[0]:
        times = in_turn([row[name] for row in rows])
        found.append(Law(name, times, slope(counts, times)))
    return found, counts


def _methods(f: Function, count: int) -> dict[str, Callable[[], object]]:
    value = f(f.point).detach()
    return {
        "one-sided": lambda: entries(lambda i: one_sided(f, i, STEP, value), count),
        "central": lambda: entries(lambda i: central(f, i, STEP), count),
        "forward mode": lambda: entries(lambda i: forward(f, i), count),
        "one-sided, batched": lambda: batched_one_sided(f, CHUNK, STEP),
        "central, batched": lambda: batched_central(f, CHUNK, STEP),
        "forward mode, batched": lambda: batched_forward(f, CHUNK),
        "reverse mode": lambda: reverse(f),
    }


def in_turn(functions: Sequence[Callable[[], object]]) -> list[float]:
    """The least time of each in as many rounds as `BUDGET` and `ROUNDS` allow: other work only ever adds to it."""
    taken = [[seconds(function) for function in functions]]
    while len(taken) < ROUNDS and sum(map(sum, taken)) + sum(taken[-1]) < BUDGET:
        taken.append([seconds(function) for function in functions])
    return [min(times) for times in zip(*taken, strict=True)]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line through the logarithms."""
    a, b = torch.tensor(x, dtype=torch.float64).log(), torch.tensor(y, dtype=torch.float64).log()
    return float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


@dataclass(frozen=True)
class Size:
    """What one model size costs; seconds."""

    count: int
    value: Timing
    gradient: Timing
    tangent: Timing
    entry: dict[str, float]
    """Seconds of one entry of the gradient, from a sample of entries, by method."""
    reverse_flops: float
    """Operations of value and gradient over those of the value."""
    forward_flops: float
    """Operations of value and one directional derivative over those of the value."""

    def ratio(self, method: str) -> float:
        """Extrapolated time of the whole gradient over that of reverse mode."""
        return self.count * self.entry[method] / self.gradient.median


def measure_size(width: int, num_layers: int) -> Size:
    """Times and operations of a model; its whole gradient is extrapolated from some of its entries."""
    f = Function(build(width, num_layers))
    count = len(f.point)
    value = f(f.point).detach()
    places = [index * count // SAMPLED for index in range(SAMPLED)]
    times = interleaved(
        {
            "value": lambda: torch.no_grad()(f)(f.point),
            "gradient": lambda: reverse(f),
            "tangent": lambda: torch.no_grad()(directional)(f, torch.ones_like(f.point)),
        },
        ROUNDS,
    )
    methods: dict[str, Callable[[], object]] = {
        "one-sided": lambda: entries(lambda k: one_sided(f, places[k], STEP, value), SAMPLED),
        "central": lambda: entries(lambda k: central(f, places[k], STEP), SAMPLED),
        "forward mode": lambda: entries(lambda k: forward(f, places[k]), SAMPLED),
    }
    entry = {name: seconds(run) / SAMPLED for name, run in methods.items()}
    base = flops(lambda: f(f.point))
    return Size(
        count,
        *times.values(),
        entry,
        flops(lambda: reverse(f)) / base,
        flops(lambda: directional(f, torch.ones_like(f.point))) / base,
    )


def crossings(size: Size) -> dict[str, tuple[float, float]]:
    """N at which the ratio to reverse mode would be ten million: by operations, and by the times of a size."""
    c, times = size.reverse_flops, size.gradient.median
    cost = {"one-sided": 1.0, "central": 2.0, "forward mode": size.forward_flops}
    return {name: (TARGET * c / cost[name], TARGET * times / size.entry[name]) for name in cost}


class Memory(NamedTuple):
    """What a way of keeping intermediate results costs."""

    name: str
    saved: int
    """Bytes kept from the forward pass."""
    peak: float
    """The same and one segment's results, which come back while it is differentiated."""
    time: Timing
    flops: float
    """Operations of value and gradient over those of the value."""
    identical: bool
    """Whether the gradient has the bits of the one without checkpoints."""


def memory(width: int, depth: int) -> list[Memory]:
    """Everything kept, every block recomputed, and segments of 2, 4, ... blocks."""
    plain, half = build(width, depth), build(width, depth // 2)
    block = (saved_bytes(plain) - saved_bytes(half)) / (depth - depth // 2)
    base, wanted = flops(lambda: plain()), _gradient(plain)
    losses = {"everything kept": plain}
    sizes = [2**k for k in range(depth.bit_length() - 1)]
    losses |= {f"segments of {n}" if n > 1 else "every block": checkpointed(build(width, depth), n) for n in sizes}
    times = interleaved({name: lambda loss=loss: _gradient(loss) for name, loss in losses.items()}, ROUNDS)
    made = []
    for (name, loss), size in zip(losses.items(), [0, *sizes], strict=True):
        saved = saved_bytes(loss)
        work = flops(lambda loss=loss: _gradient(loss)) / base
        made.append(Memory(name, saved, saved + size * block, times[name], work, torch.equal(_gradient(loss), wanted)))
    return made


def _gradient(loss: torch.nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss(), list(loss.parameters()))])
