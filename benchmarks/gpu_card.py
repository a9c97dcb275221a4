"""What a card can do by itself: the rates that everything else is measured against, and how time is taken on it."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.results import Row

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second from the data sheets of the SXM cards."""


class Rates(NamedTuple):
    """Of one card, measured.

    Attributes:
        matmul: operations per second of a large bfloat16 product.
        copy: bytes per second, read and written.
        attention: operations per second of fused attention, forward and backward.
        peak: operations per second of the data sheet; None for a card that isn't in `PEAKS`.
    """

    matmul: float
    copy: float
    attention: float
    peak: float | None


class Machine:
    """A device, and the time that is left on it.

    Args:
        device: "cuda" or "cpu".
        minutes: after which nothing new is begun.
        log: file that gets a line of JSON for each row as soon as it is there; None for the screen alone.
    """

    def __init__(self, device: str, minutes: float, log: Path | None = None) -> None:
        self.device, self.is_cuda, self.log = device, device.startswith("cuda"), log
        self.end = time.monotonic() + 60 * minutes
        self.left_out: list[str] = []

    @property
    def name(self) -> str:
        """Of the card."""
        return torch.cuda.get_device_name() if self.is_cuda else "CPU"

    def wait(self) -> None:
        """Until everything that was started is done."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], repeats: int, warm_up: int = 1) -> float:
        """Median wall time of a run."""
        for _ in range(warm_up):
            run()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def may(self, what: str, minutes: float, gigabytes: float) -> bool:
        """Whether a part may begin; a part that may not is noted.

        Args:
            what: the part.
            minutes: that it takes at most.
            gigabytes: of memory that it needs.
        """
        left = (self.end - time.monotonic()) / 60
        if left < minutes:
            self.note(f"{what}: {max(left, 0):.1f} minutes left, {minutes:g} needed")
            return False
        free = self.free_gigabytes()
        if free < gigabytes:
            self.note(f"{what}: {free:.0f} GB free, {gigabytes:g} needed")
            return False
        return True

    def attempt(self, what: str, run: Callable[[], Any]) -> Any:
        """What a part gives, or None: one that fails in any way is noted, and the rest of the time isn't lost."""
        try:
            return run()
        except (Exception, SystemExit) as error:  # compilers and CUDA raise many kinds, and so may our own mistakes
            self.note(f"{what} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return None

    def note(self, line: str) -> None:
        """Keep, and tell at once, what was left out or is to be doubted."""
        self.left_out.append(line)
        self.tell({"left out": line})

    def collect(self, what: str, rows: Iterable[Row]) -> list[Row]:
        """Rows of a table, each told as soon as it is there; those before an error are kept.

        Args:
            what: the table.
            rows: measured one by one as they are asked for.
        """
        found: list[Row] = []

        def take() -> None:
            for row in rows:
                found.append(row)
                self.tell({"table": what, **row})

        self.attempt(what, take)
        return found

    def tell(self, line: Row) -> None:
        """Print a line of JSON, and write it to the log, so that a program that is killed has lost nothing."""
        text = json.dumps(line, default=str)
        print(text, flush=True)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")

    def free_gigabytes(self) -> float:
        """Memory that isn't taken; infinite where nobody asks."""
        if not self.is_cuda:
            return float("inf")
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0] / 1e9

    def peak_gigabytes(self) -> float | None:
        """Most memory that tensors took since `forget_peak`; None off a card."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.is_cuda else None

    def forget_peak(self) -> None:
        """Begin anew."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()


def rates(machine: Machine, tiny: bool) -> Rates:
    """Measure the card; a rate that can't be measured is not a number."""
    size, length, heads, repeats = (128, 64, 2, 2) if tiny else (8192, 4096, 32, 20)
    on = {"device": machine.device, "dtype": torch.bfloat16}

    def matmul() -> float:
        a, b = torch.randn(size, size, **on), torch.randn(size, size, **on)
        return 2 * size**3 / machine.seconds(lambda: a @ b, repeats)

    def copy() -> float:
        source = torch.zeros(size * size * 4, **on)
        target = torch.empty_like(source)
        moved = 2 * source.numel() * source.element_size()
        return moved / machine.seconds(lambda: target.copy_(source), repeats)

    def attention() -> float:
        q, k, v, direction = (torch.randn(2, heads, length, 64, **on, requires_grad=True) for _ in range(4))

        def attend() -> None:
            torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), direction)

        # Forward has two products of L x L x d, backward five.
        return 14 * 2 * heads * length**2 * 64 / machine.seconds(attend, repeats)

    parts = {"matrix product": matmul, "copy": copy, "attention": attention}
    measured = [machine.attempt(f"rate of {what}", run) for what, run in parts.items()]
    peak = next((peak for card, peak in PEAKS.items() if card in machine.name), None)
    return Rates(*(math.nan if rate is None else rate for rate in measured), peak)


def table(found: Rates) -> list[Row]:
    """Lines for the page."""
    rows: list[Row] = [
        {"the card alone": "matrix product, bfloat16", "rate": found.matmul / 1e12, "unit": "TFLOP/s"},
        {"the card alone": "copy, read and written", "rate": found.copy / 1e9, "unit": "GB/s"},
        {"the card alone": "attention, forward and backward", "rate": found.attention / 1e12, "unit": "TFLOP/s"},
    ]
    if found.peak is not None:
        rows.append({"the card alone": "data sheet, bfloat16", "rate": found.peak / 1e12, "unit": "TFLOP/s"})
    return rows
