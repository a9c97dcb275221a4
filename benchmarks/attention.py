"""Attention kernels against the plain formula, forward and backward.

Every kernel in `llada.backbones.attention.kernels.KERNELS`, on the layouts that training and decoding have:
dense rows, rows with padding, packed rows of several documents, and a block of queries against the keys of a canvas.
Results and gradients are compared with the formula before anything is timed; a kernel that can't serve a layout says
why in the table.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from llada.backbones import KERNELS, Visibility
from llada.backbones.attention.kernels import plain_attention

Kernel = Callable[[Tensor, Tensor, Tensor, Visibility], Tensor]

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


class Layout:
    """Queries, keys, values, who may see whom, and which queries count."""

    def __init__(self, name: str, visibility: Visibility, queries: int, given: Any) -> None:
        self.name, self.visibility = name, visibility
        torch.manual_seed(0)
        options = {"device": given.device, "dtype": getattr(torch, given.dtype), "requires_grad": True}
        heads, length, width = given.heads, given.length, given.head_dim
        self.inputs = [torch.randn(given.rows, heads, size, width, **options) for size in (queries, length, length)]
        real = visibility.keys if visibility.keys is not None and queries == length else None
        self.counts = None if real is None else real[:, None, :, None]
        self.direction = torch.randn(given.rows, heads, queries, width, device=given.device, dtype=options["dtype"])

    def run(self, kernel: Kernel) -> list[Tensor]:
        """The result of the queries that count, and the gradients."""
        result = kernel(*self.inputs, self.visibility)
        if self.counts is not None:
            result = result * self.counts
        return [result.detach(), *torch.autograd.grad((result * self.direction).sum(), self.inputs)]


def layouts(given: Any) -> list[Layout]:
    """What is compared."""
    length, rows = given.length, given.rows
    column = torch.arange(length, device=given.device)
    lengths = torch.linspace(length / 2, length, rows, device=given.device).long()
    segments = (column * 4 // length).expand(rows, length)
    return [
        Layout("dense", Visibility(), length, given),
        Layout("padded", Visibility(keys=column < lengths[:, None]), length, given),
        Layout("packed", Visibility(segments=segments), length, given),
        Layout("block of 32 queries", Visibility(), min(32, length), given),
    ]


def finished(run: Callable[[], Any], device: str) -> Callable[[], None]:
    """A run that is over when it returns, also on a GPU."""

    def wait() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return wait


def measure(layout: Layout, given: Any) -> list[Row]:
    """Lines of the table, one per kernel."""
    expected = layout.run(plain_attention)
    able: dict[str, Callable[[], None]] = {}
    remarks: dict[str, str] = {}
    for name, kernel in KERNELS.items():
        try:
            found = layout.run(kernel)
        except (ValueError, ImportError, RuntimeError) as error:
            remarks[name] = str(error).split("\n")[0].split(";")[0]
            continue
        for ours, theirs in zip(found, expected, strict=True):
            difference = float((ours - theirs).float().norm() / theirs.float().norm())
            must_equal(f"{name}, {layout.name}", difference, TOLERANCE[ours.dtype])
        able[name] = finished(lambda kernel=kernel: layout.run(kernel), given.device)
    times = interleave(able, given.rounds)
    return [line(layout.name, name, times, remarks) for name in KERNELS]


def line(layout: str, name: str, times: dict[str, tuple[float, float]], remarks: dict[str, str]) -> Row:
    """A line of the table."""
    row: Row = {
        "kernel and layout": f"{name}, {layout}",
        "cpu ms": "",
        "cpu ratio": "",
        "wall ms": "",
        "wall ratio": "",
        "remark": "",
    }
    if name in remarks:
        return {**row, "remark": remarks[name]}
    (cpu, wall), (plain_cpu, plain_wall) = times[name], times["plain"]
    measured = {
        "cpu ms": 1e3 * cpu,
        "cpu ratio": plain_cpu / cpu,
        "wall ms": 1e3 * wall,
        "wall ratio": plain_wall / wall,
    }
    return {**row, **measured}


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    given: Any = parse(parser, arguments)
    rows = [row for layout in layouts(given) for row in measure(layout, given)]
    shown = "cpu ratio" if given.device == "cpu" else "wall ratio"
    plot = Plot("kernel and layout", shown, title="Attention: plain formula / kernel", goal=1.0)
    shape = f"{given.rows} rows of {given.length}, {given.heads} heads of {given.head_dim}"
    note = f"{given.dtype} on {given.device}, {shape}. {given.note}".strip()
    return finish(Result("attention", __doc__ or "", rows, plot, [], note), given.out)


if __name__ == "__main__":
    main()
