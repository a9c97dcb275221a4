"""Two-copy training of block diffusion, as a union of runs against a mask.

One step is the noise, forward and backward pass of `Blockwise` over both copies of a row, clipping to norm 1 and fused
AdamW, in float32 at width 256, 6 layers. The other side is the same model with attention='sdpa', which hides by a mask
of (2 L, 2 L). Loss and gradient are compared before anything is timed. 'auto' is what the library takes by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.results import Goal, Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from benchmarks.train_step import with_gradient
from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.block_causal import token_blocks
from llada.backbones.attention.kernels import Case, kernel_for
from llada.backbones.two_copy import TwoCopies
from llada.objectives import NELBO, Blockwise
from llada.process import MaskingProcess
from llada.random import RowRandom

GOAL_LENGTH, GOAL_BLOCK, GOAL = 2048, 4, 2.0


class Problem:
    """The same model with two kernels, and a batch."""

    def __init__(self, length: int, block_length: int, given: Any) -> None:
        self.block_length, self.given = block_length, given
        self.tokens = torch.randint(given.vocab - 1, (given.rows, length), generator=torch.Generator().manual_seed(1))
        self.random = RowRandom.for_step(0, 0, torch.arange(given.rows), given.rows)
        self.models = {name: self.model(name) for name in ("sdpa", "union")}
        self.process, self.objective = MaskingProcess(given.vocab - 1), NELBO(Blockwise())

    def model(self, attention: str) -> BidirectionalTransformer:
        """The model, with one kernel."""
        torch.manual_seed(0)
        width, layers = self.given.width, self.given.layers
        heads, hidden = max(1, width // 64), 3 * width
        return BidirectionalTransformer(
            self.given.vocab, width, layers, heads, hidden_width=hidden, attention=attention,
            block_length=self.block_length,
        )  # fmt: skip

    def loss(self, name: str) -> Tensor:
        """The loss with one kernel."""
        return self.objective(self.models[name], self.process, self.tokens, random=self.random).loss

    def check(self) -> None:
        """Loss and gradient must agree."""
        (loss, gradient), (other, theirs) = (
            with_gradient(self.models[name], lambda name=name: self.loss(name)) for name in ("union", "sdpa")
        )
        must_equal("the gradient", float((gradient - theirs).norm() / theirs.norm()), 1e-5)
        must_equal("the loss", abs(loss - other) / abs(other), 1e-5)

    def stepper(self, name: str) -> Callable[[], None]:
        """A whole training step; the noise is the same in each."""
        parameters = list(self.models[name].parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def step() -> None:
            self.loss(name).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def chosen(self) -> str:
        """What attention='auto' takes."""
        model, (rows, length) = self.models["union"], self.tokens.shape
        visibility = TwoCopies(blocks=token_blocks(self.block_length, self.tokens, None, None))
        return kernel_for(Case.of(torch.empty(rows, model.num_heads, 2 * length, model.head_dim), visibility))


def measure(length: int, block_length: int, given: Any) -> Row:
    """A line of the table."""
    problem = Problem(length, block_length, given)
    problem.check()
    times = interleave({name: problem.stepper(name) for name in problem.models}, given.rounds)
    (cpu, wall), (mask_cpu, mask_wall) = times["union"], times["sdpa"]
    return {
        "tokens and block": f"{length}, {block_length}",
        "cpu s": cpu,
        "mask cpu s": mask_cpu,
        "cpu ratio": mask_cpu / cpu,
        "wall ratio": mask_wall / wall,
        "auto": problem.chosen(),
    }


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, GOAL_LENGTH])
    parser.add_argument("--blocks", type=int, nargs="+", default=[GOAL_BLOCK, 32])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    given: Any = parse(parser, arguments)
    sizes = [(length, block) for length in given.lengths for block in given.blocks]
    rows = [measure(length, block, given) for length, block in sizes]
    goals = [
        Goal(f"ratio at {length:,} tokens and blocks of {block}", row["cpu ratio"], GOAL)
        for (length, block), row in zip(sizes, rows, strict=True)
        if (length, block) == (GOAL_LENGTH, GOAL_BLOCK)
    ]
    plot = Plot("tokens and block", "cpu ratio", title="Two-copy training step: mask / union", goal=1.0)
    return finish(Result("two_copies", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
