"""How the benchmarks measure: interleaved rounds, process time and wall time, medians, and what they ran on."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch


def interleave(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Run each function once per round, in turn, after one round to warm up.

    Args:
        functions: by name.
        rounds: that count.

    Returns:
        Median process time and wall time of each, seconds.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            if number:
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in times.items()}  # type: ignore[misc]


def hardware() -> str:
    """Processor, threads, versions and date, for the head of a table."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, torch {torch.__version__}, "
        f"{date.today().isoformat()}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """One line of JSON for machines."""
    print(json.dumps({"benchmark": name, "on": hardware(), "rows": rows}))
