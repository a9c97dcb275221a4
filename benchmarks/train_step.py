"""A training step against the plain loss.

One step is noise, forward, loss, backward, clipping to norm 1 and fused AdamW, in float32 at width 256, 6 layers,
batch 8 x 256. The plain side computes the logits of all positions and the cross-entropy over the transposed cube; the
network, the noise and the optimiser are the same. Loss and gradient are compared before anything is timed.

The floor is the time that the matrix products of our own step would take at the rate of one large product, measured in
the same run: what remains above it is all that better code could still win.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import naive
from benchmarks.models import body_flops, build
from benchmarks.results import Goal, Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from llada.backbones import BidirectionalTransformer
from llada.objectives import NELBO, IndependentMasks
from llada.objectives.design import MASKS, TIMES
from llada.process import MaskingProcess
from llada.random import RowRandom

GOALS = {32_000: 2.0, 126_464: 3.0}


class Problem:
    """A model, a batch, and its loss computed in two ways from the same noise."""

    def __init__(self, vocab_size: int, rows: int, length: int, width: int, num_layers: int) -> None:
        self.model = build(vocab_size, width, num_layers)
        self.process, self.design = MaskingProcess(vocab_size - 1), IndependentMasks()
        self.objective = NELBO(self.design)
        self.tokens = torch.randint(vocab_size - 1, (rows, length), generator=torch.Generator().manual_seed(1))
        self.random = RowRandom.for_step(0, 0, torch.arange(rows), rows)

    def ours(self) -> Tensor:
        """The library's loss."""
        return self.objective(self.model, self.process, self.tokens, random=self.random).loss

    def plain(self) -> Tensor:
        """The reference's."""
        t = self.design.times(self.random.fold_in(TIMES))
        noised = self.process.corrupt(self.tokens, t, random=self.random.fold_in(MASKS))
        return naive.training_loss(self.model, noised.tokens, self.tokens, noised.scored, t)

    @property
    def num_scored(self) -> int:
        """Masked tokens of the batch."""
        return int(self.objective(self.model, self.process, self.tokens, random=self.random).num_scored.sum())


def with_gradient(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """A loss, and its gradient as one vector."""
    value = loss()
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return float(value.detach()), torch.cat([gradient.flatten() for gradient in gradients])


def check(problem: Problem) -> float:
    """Relative difference of the losses; loss and gradient must agree."""
    loss, gradient = with_gradient(problem.model, problem.ours)
    other, theirs = with_gradient(problem.model, problem.plain)
    must_equal("the gradient", float((gradient - theirs).norm() / theirs.norm()), 1e-5)
    return must_equal("the loss", abs(loss - other) / abs(other), 1e-5)


def stepper(problem: Problem, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A whole training step; the noise is the same in each."""
    parameters = list(problem.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def floor(problem: Problem) -> float:
    """Seconds for the matrix products of our step, forward and backward, at the rate of one large product."""
    rows, length = problem.tokens.shape
    model, masked = problem.model, problem.num_scored
    head = 2.0 * masked * model.width * model.vocab_size
    return 3 * (body_flops(model, rows, length, masked) + head) / matmul_rate(model)


def matmul_rate(model: BidirectionalTransformer, repeats: int = 5) -> float:
    """Operations per second of process time, of a product with the shape of a chunk of the head."""
    rows, columns = 512, min(model.vocab_size, 32_000)
    a, b = torch.randn(rows, model.width), torch.randn(columns, model.width)
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        a @ b.T
        best = min(best, time.process_time() - start)
    return 2 * rows * columns * model.width / max(best, 1e-9)


def measure(vocab_size: int, rounds: int, rows: int, length: int, width: int, num_layers: int) -> Row:
    """A line of the table."""
    problem = Problem(vocab_size, rows, length, width, num_layers)
    difference = check(problem)
    times = interleave({"plain": stepper(problem, problem.plain), "ours": stepper(problem, problem.ours)}, rounds)
    (plain_cpu, plain_wall), (cpu, wall) = times["plain"], times["ours"]
    return {
        "vocabulary": vocab_size,
        "cpu s": cpu,
        "plain cpu s": plain_cpu,
        "cpu ratio": plain_cpu / cpu,
        "wall ratio": plain_wall / wall,
        "loss difference": difference,
        "floor s": floor(problem),
    }


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    given: Any = parse(parser, arguments)
    sizes = given.rows, given.length, given.width, given.layers
    rows = [measure(vocab, given.rounds, *sizes) for vocab in given.vocab]
    goals = [
        Goal(f"ratio at a vocabulary of {row['vocabulary']:,}", row["cpu ratio"], GOALS[row["vocabulary"]])
        for row in rows
        if row["vocabulary"] in GOALS
    ]
    plot = Plot("vocabulary", "cpu ratio", title="Training step: plain / ours")
    return finish(Result("train_step", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
