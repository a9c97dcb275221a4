"""Ancestral sampling against the plain loop.

Which positions are uncovered in a step doesn't depend on the network, so ours draws them first and asks for the
vocabulary there alone: one row per generated token. The plain side has logits, softmax and noise of the whole canvas in
every step; both skip the network where nothing changes. Float32, width 256, 6 layers, 128 steps. That both have the
same law is tested first, on a vocabulary of three words, by a chi-square test with a false-alarm rate of one in a
million.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.models import build
from benchmarks.results import Goal, Plot, Result, Row, finish, options, parse
from benchmarks.timing import interleave
from llada.process import MaskingProcess
from llada.samplers import ancestral

CHI_SQUARE_26 = 75.5
"""Of 26 degrees of freedom; exceeded once in a million."""


def check_law(rows: int = 4096) -> None:
    """Three positions and three words have 27 outcomes: both sides must draw them equally often."""
    model, length, words, steps = build(4, 16, 1), 3, 3, 4
    torch.manual_seed(0)
    theirs, _ = naive.ancestral(model, rows, length, steps, words)
    ours = ancestral(steps=steps)(model, torch.full((rows, length), words), MaskingProcess(words)).tokens
    a, b = (counts(tokens, words) for tokens in (ours, theirs))
    statistic = float(((a - b) ** 2 / (a + b).clamp(min=1)).sum())
    if statistic > CHI_SQUARE_26:
        raise SystemExit(f"the two samplers differ in law (chi-square {statistic:.0f}); nothing was timed")


def counts(tokens: Tensor, words: int) -> Tensor:
    """How often each canvas occurs."""
    index = (tokens * words ** torch.arange(tokens.shape[1])).sum(1)
    return torch.bincount(index, minlength=words ** tokens.shape[1]).double()


def measure(vocab_size: int, given: Any) -> Row:
    """A line of the table."""
    model, mask = build(vocab_size, given.width, given.layers), vocab_size - 1
    process, sampler = MaskingProcess(mask), ancestral(steps=given.steps)
    canvas = torch.full((given.rows, given.length), mask)
    passed: list[int] = []
    hook = model.head.register_forward_hook(lambda _, inputs, __: passed.append(inputs[0][..., 0].numel()))
    sample = sampler(model, canvas, process)
    hook.remove()
    plain_calls: list[int] = []
    times = interleave(
        {
            "plain": lambda: plain_calls.append(naive.ancestral(model, given.rows, given.length, given.steps, mask)[1]),
            "ours": lambda: sampler(model, canvas, process),
        },
        given.rounds,
    )
    return {
        "vocabulary": vocab_size,
        "calls": int(sample.calls.max()),
        "plain calls": plain_calls[-1],
        "vocabulary rows per token": sum(passed) / canvas.numel(),
        "cpu s": times["ours"][0],
        "plain cpu s": times["plain"][0],
        "cpu ratio": times["plain"][0] / times["ours"][0],
        "wall ratio": times["plain"][1] / times["ours"][1],
    }


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    given: Any = parse(parser, arguments)
    check_law()
    rows = [measure(vocab, given) for vocab in given.vocab]
    goals = [
        goal
        for row in rows
        for goal in (
            Goal(f"ratio at a vocabulary of {row['vocabulary']:,}", row["cpu ratio"], 6.0),
            Goal("vocabulary rows per generated token", row["vocabulary rows per token"], 1.0, most=True),
        )
    ]
    plot = Plot("vocabulary", "cpu ratio", title="Ancestral sampling: plain / ours", goal=6.0)
    return finish(Result("ancestral", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
