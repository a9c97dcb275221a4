"""Time of a training step by the share of masked tokens.

Only masked tokens have a loss. So the head and what follows the last attention cost as much as there are masked tokens,
and the time is affine in their number; the plain side computes all logits and is flat. Forward, loss and backward, in
float32 at width 256, 6 layers, batch 8 x 256; losses are compared first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.models import build
from benchmarks.results import Goal, Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from llada.denoiser import as_denoiser
from llada.objectives.exact_counts import masked_exactly
from llada.process import MaskingProcess, Noised
from llada.random import RowRandom


def losses(vocab_size: int, given: Any) -> dict[tuple[str, float], Callable[[], Tensor]]:
    """The losses of one batch by side and share of masked tokens."""
    model, process = build(vocab_size, given.width, given.layers), MaskingProcess(vocab_size - 1)
    shape = given.rows, given.length
    tokens = torch.randint(vocab_size - 1, shape, generator=torch.Generator().manual_seed(1))
    found: dict[tuple[str, float], Callable[[], Tensor]] = {}
    for share in given.shares:
        number = max(1, round(share * given.length))
        everything, one_datum = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
        count = torch.full(tokens.shape, float(number), dtype=torch.float64)
        masked = masked_exactly(everything, one_datum, count, RowRandom.from_seed(0, given.rows)).masked
        noised = Noised(tokens.masked_fill(masked, process.mask_token_id), masked)
        t = torch.full((given.rows,), number / given.length)
        found["plain", share] = partial(naive.training_loss, model, noised.tokens, tokens, noised.scored, t)
        found["ours", share] = partial(ours, model, noised, tokens, t)
    return found


def ours(model: torch.nn.Module, noised: Noised, x_0: Tensor, t: Tensor) -> Tensor:
    """The library's loss, nats per token."""
    weights = (1 / (t * x_0.numel()))[:, None].expand_as(x_0)[noised.scored]
    return as_denoiser(model).weighted_nll(noised.tokens, x_0, noised.scored, weights)[0]


def measure(vocab_size: int, given: Any) -> list[Row]:
    """Lines of the table, one for each side and share."""
    found = losses(vocab_size, given)
    for share in given.shares:
        mine, theirs = (float(found[side, share]().detach()) for side in ("ours", "plain"))
        must_equal(f"the loss at {share:.0%} masked", abs(mine - theirs) / theirs, 1e-5)
    times = interleave(
        {f"{side} {share}": lambda f=f: f().backward() for (side, share), f in found.items()}, given.rounds
    )
    rows = []
    for side, share in sorted(found, key=lambda key: (key[0], key[1])):
        cpu, wall = times[f"{side} {share}"]
        rows.append({"side": side, "masked": share, "cpu s": cpu, "wall s": wall})
    return rows


def affine(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Least squares of time over share: time at none, slope, and the largest deviation relative to the time."""
    share, time = (np.array([row[name] for row in rows], dtype=float) for name in ("masked", "cpu s"))
    slope, start = np.polyfit(share, time, 1)
    return float(start), float(slope), float(np.abs((start + slope * share) / time - 1).max())


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.15, 0.3, 0.5, 0.75, 0.95])
    given: Any = parse(parser, arguments)
    rows = measure(given.vocab, given)
    mine = [row for row in rows if row["side"] == "ours"]
    start, slope, deviation = affine(mine)
    low, high = (f"{share:.0%}" for share in (given.shares[0], given.shares[-1]))
    goals = [
        Goal(f"time at {low} masked / at {high}", mine[0]["cpu s"] / mine[-1]["cpu s"], 0.55, most=True),
        Goal(f"deviation from {start:.3g} + {slope:.3g} x share, seconds", deviation, 0.1, most=True),
    ]
    plot = Plot("masked", "cpu s", "side", "Forward and backward by share of masked tokens", "process time, s")
    return finish(Result("mask_scaling", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
