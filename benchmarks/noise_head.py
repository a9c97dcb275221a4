"""The divergence of uniform noise, forward and backward, against the published formula written plainly.

The plain side is Duo's loss of a token, which is also UDLM's, over all log-probabilities (N, V) by autograd: as
its authors write it, with the cube's exponential, its noised average, that one's logarithm and their sum. Both sides
get the same input of the head and give the same loss and gradients, which is asserted before anything is measured.

Times are taken in turn in one process; working memory (see `benchmarks.train_memory`) in a process for each side.

OMP_NUM_THREADS=1 python -m benchmarks.noise_head --rows 1024 --vocab_size 32000 --width 256
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import hardware, interleave, table
from benchmarks.train_memory import ALLOCATOR, peak_above
from llada.heads import Chunked
from llada.heads.noise_law import NoisedTokens
from llada.process import UniformProcess

GOALS = {"seconds": 2.0, "MiB": 8.0}


class Problem:
    """A head, its input, and tokens at random times."""

    def __init__(self, rows: int, vocab_size: int, width: int) -> None:
        torch.manual_seed(0)
        self.process, self.head = UniformProcess(vocab_size), nn.Linear(width, vocab_size, bias=False)
        self.hidden = torch.randn(rows, width, requires_grad=True)
        self.t = 0.05 + 0.9 * torch.rand(rows, 1, dtype=torch.float64)
        self.x_0, noise = torch.randint(vocab_size, (rows, 1)), torch.randint(vocab_size, (rows, 1))
        self.tokens = torch.where(torch.rand(rows, 1) < self.t, noise, self.x_0)

    def ours(self) -> Tensor:
        """The library's loss, in chunks."""
        law = self.process.noise_law(self.t[:, 0])
        assert law is not None
        weights = self.process.bound_weight(self.t, self.tokens, self.x_0)[:, 0]
        return Chunked().interpolated(
            self.head, self.hidden, NoisedTokens(self.x_0[:, 0], self.tokens[:, 0], law), weights
        )[0]

    def plain(self) -> Tensor:
        """Duo's loss, with alpha = 1 - t."""
        size, alpha = self.process.num_tokens, (1.0 - self.t).float()
        log_x = self.head(self.hidden).log_softmax(-1)
        bar = size * alpha * log_x.exp() + 1.0 - alpha
        kept = self.x_0 == self.tokens
        bar_token, bar_target = bar.gather(-1, self.tokens), bar.gather(-1, self.x_0)
        own_token = 1.0 - alpha + size * alpha * kept
        ratio = (1.0 - alpha) / (size * alpha + 1.0 - alpha)
        share = torch.where(kept, ratio, 1.0)
        constant = torch.where(kept, (size - 1) * ratio, -1.0 / ratio) * ratio.log()
        logs = -share * (bar.log().sum(-1, keepdim=True) - size * bar_token.log())
        logs = logs - torch.where(kept, 0.0, size * alpha / (1.0 - alpha) * (bar_target.log() - bar_token.log()))
        inner = size * (1.0 / own_token - 1.0 / bar_token) - logs - constant
        return (-1.0 / (size * alpha) * inner).sum()

    def step(self, side: str) -> Callable[[], None]:
        """Forward and backward of one side."""

        def run() -> None:
            self.head.weight.grad = self.hidden.grad = None
            getattr(self, side)().backward()

        return run


def check(problem: Problem) -> None:
    """Refuse to measure sides that differ."""
    inputs = [problem.hidden, problem.head.weight]
    (ours, *mine), (plain, *theirs) = (
        (loss.detach(), *torch.autograd.grad(loss, inputs)) for loss in (problem.ours(), problem.plain())
    )
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def memory(side: str, sizes: Sequence[int]) -> float:
    """Working memory of a step in MiB, gradients included, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.noise_head", "--child", side]
    for name, size in zip(("rows", "vocab_size", "width"), sizes, strict=True):
        command += [f"--{name}", str(size)]
    run = subprocess.run(command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout)) / 2**20


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[float, float]] | None:
    """Measure and print; as a child, measure the memory of one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 1024), ("vocab_size", 32_000), ("width", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", choices=("ours", "plain"))
    given: Any = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = (given.rows, given.vocab_size, given.width)
    problem = Problem(*sizes)
    if given.child:
        step = problem.step(given.child)
        step()
        problem.head.weight.grad = problem.hidden.grad = None
        print(json.dumps(peak_above(step)))
        return None
    check(problem)
    times = interleave({side: problem.step(side) for side in ("ours", "plain")}, given.rounds)
    found = {side: (times[side][0], memory(side, sizes)) for side in times}
    lines = [[side, f"{seconds:.3f}", f"{size:.0f}"] for side, (seconds, size) in found.items()]
    ratios = [plain / ours for plain, ours in zip(found["plain"], found["ours"], strict=True)]
    print(hardware())
    print(table(["side", *GOALS], [*lines, ["plain / ours", *(f"{ratio:.1f}" for ratio in ratios)]]))
    return found


if __name__ == "__main__":
    main()
