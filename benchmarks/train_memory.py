"""Working memory of a training step against the plain loss.

Working memory is what forward and backward need beside the weights, their gradients and the optimiser: the peak of the
resident memory during a step, less what was resident before it, less the gradients. Each side runs in a process of its
own, after one step to warm up, with an allocator that gives large blocks back to the system at once; so the figure is
Linux's own (VmHWM), not a count of tensors.

At a large vocabulary the peak comes before the last gradients exist, and the figure less all gradients is too small;
what the machine must hold beside weights and optimiser is in the column "with gradients".

"Layers alone" is a pass through the body and back without any head: what both sides keep, and so the bound of the
ratio. "Checkpointed" computes each layer again in the backward pass (`activation_checkpointing`).

The rows called "head" measure `Chunked` alone at a growing number of masked rows, less the gradient of its input,
which is as large as the input: what remains is the chunk of logits and the gradient of the matrix, whatever the number
of rows.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import build
from benchmarks.results import Goal, Plot, Result, Row, finish, options, parse
from benchmarks.train_step import Problem
from llada.heads.head_loss import Chunked

GOALS = {32_000: 4.0, 126_464: 7.0}
# glibc keeps freed memory for later; with these, what is freed is gone from the resident memory.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "65536"}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """A line of the process's status (VmRSS, VmHWM), bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_above(run: Callable[[], Any]) -> int:
    """Bytes by which a call raises the resident memory at its highest, what it leaves behind included."""
    gc.collect()
    CLEAR.write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def losses(problem: Problem) -> dict[str, Callable[[], Tensor]]:
    """What is measured: the step of either side, and the layers by themselves, which both sides run."""
    return {
        "plain": problem.plain,
        "ours": problem.ours,
        "ours, checkpointed": problem.ours,
        "layers alone": lambda: problem.model.hidden(problem.tokens).sum(),
    }


def step_memory(problem: Problem, kind: str) -> int:
    """Working memory of a training step, bytes."""
    loss = losses(problem)[kind]
    problem.model.activation_checkpointing = kind == "ours, checkpointed"

    def step() -> None:
        loss().backward()

    step()
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in problem.model.parameters() if p.grad is not None)
    problem.model.zero_grad(set_to_none=True)
    return peak_above(step) - gradients


def head_memory(vocab_size: int, width: int, masked: int) -> int:
    """Working memory of the loss of some masked rows, bytes; the gradient of the matrix is a part of it."""
    head = build(vocab_size, width, num_layers=1).head
    hidden = torch.randn(masked, width, requires_grad=True)
    targets, weights = torch.randint(vocab_size, (masked,)), torch.rand(masked)

    def step() -> None:
        Chunked()(head, hidden, targets, weights)[0].backward()

    step()
    head.zero_grad(set_to_none=True)
    hidden.grad = None
    return peak_above(step) - hidden.numel() * hidden.element_size()


def child(given: Any) -> int:
    """What one process measures."""
    if given.child == "head":
        return head_memory(given.vocab[0], given.width, given.rows)
    problem = Problem(given.vocab[0], given.rows, given.length, given.width, given.layers)
    return step_memory(problem, given.child)


def measure(kind: str, vocab_size: int, given: Any, rows: int) -> float:
    """Working memory in MiB, from a process of its own."""
    words = ["--child", kind, "--vocab", vocab_size, "--rows", rows, "--length", given.length]
    words += ["--width", given.width, "--layers", given.layers, "--threads", given.threads]
    command = [sys.executable, "-m", "benchmarks.train_memory", *map(str, words)]
    run = subprocess.run(command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr}")
    return float(json.loads(run.stdout)) / 2**20


def lines(vocab_size: int, given: Any) -> list[Row]:
    """The table's lines for one vocabulary."""
    kinds = ["plain", "ours", "ours, checkpointed", "layers alone"]
    found = {kind: measure(kind, vocab_size, given, given.rows) for kind in kinds}
    row = {"vocabulary": vocab_size, "rows": given.rows * given.length}
    rows: list[Row] = [
        {
            **row,
            "what": f"{kind}, {vocab_size:,}",
            "MiB": memory,
            "with gradients": memory + gradients(kind, vocab_size, given),
            "ratio": "" if kind == "ours, checkpointed" else found["plain"] / memory,
        }
        for kind, memory in found.items()
    ]
    for masked in given.head:
        memory = measure("head", vocab_size, given, masked)
        what = {"what": f"head of {masked:,} rows, {vocab_size:,}", "MiB": memory}
        rows.append({**row, "rows": masked, **what, "with gradients": "", "ratio": ""})
    return rows


def gradients(kind: str, vocab_size: int, given: Any) -> float:
    """Of all weights that a kind of step trains, MiB."""
    with torch.device("meta"):
        model = build(vocab_size, given.width, given.layers)
    trained = (
        model.parameters() if kind != "layers alone" else (p for n, p in model.named_parameters() if "head" not in n)
    )
    return sum(parameter.numel() * parameter.element_size() for parameter in trained) / 2**20


def goals(rows: Sequence[Row]) -> list[Goal]:
    """What was to be reached, and was measured."""
    found = []
    for vocab_size in dict.fromkeys(row["vocabulary"] for row in rows):
        mine = [row for row in rows if row["vocabulary"] == vocab_size]
        if vocab_size in GOALS:
            found.append(Goal(f"plain / ours at {vocab_size:,}", mine[1]["ratio"], GOALS[vocab_size]))
        heads = [row for row in mine if row["what"].startswith("head")]
        if len(heads) > 1:
            spread = heads[-1]["MiB"] / heads[0]["MiB"]
            what = f"head at {heads[-1]['rows']:,} rows / at {heads[0]['rows']:,}, vocabulary {vocab_size:,}"
            found.append(Goal(what, spread, 1.05, most=True))
    return found


def main(arguments: Sequence[str] | None = None) -> Result | None:
    """Measure, print, and write; as a child, measure one thing and print it."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--head", type=int, nargs="*", default=[1024, 4096], help="masked rows for the head alone")
    parser.add_argument(
        "--child",
        choices=["plain", "ours", "ours, checkpointed", "layers alone", "head"],
        help="used by the benchmark itself",
    )
    given: Any = parse(parser, arguments)
    if not CLEAR.exists():
        raise SystemExit("this benchmark reads Linux's /proc; on a GPU see benchmarks/gpu.py")
    if given.child:
        print(child(given))
        return None
    rows = [row for vocab in given.vocab for row in lines(vocab, given)]
    plot = Plot("what", "MiB", title="Working memory of a training step", ylabel="MiB")
    return finish(Result("train_memory", __doc__ or "", rows, plot, goals(rows), given.note), given.out)


if __name__ == "__main__":
    main()
