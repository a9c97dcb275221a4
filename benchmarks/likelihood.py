"""Log-likelihood of an answer against the plain estimate.

LLaDA's estimate with the same masks on both sides: prompt of 224 tokens, answer of 32, float32, width 256, 6 layers.
The plain side computes logits of prompt and answer and picks the masked ones. The estimates must agree to 1e-3 nats
before anything is timed.
"""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import naive
from benchmarks.models import build
from benchmarks.results import Goal, Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from llada.metrics import ConditionalLikelihood
from llada.metrics.masks import StratifiedCounts
from llada.process import MaskingProcess
from llada.random import RowRandom

GOALS = {32_000: 2.4, 126_464: 4.5}


def measure(vocab_size: int, given: Any) -> Row:
    """A line of the table."""
    model, process = build(vocab_size, given.width, given.layers), MaskingProcess(vocab_size - 1)
    tokens = torch.randint(vocab_size - 1, (given.prompt + given.answer,), generator=torch.Generator().manual_seed(1))
    prompt, answer = tokens[: given.prompt], tokens[given.prompt :]
    samples, design = given.samples, StratifiedCounts()
    estimator = ConditionalLikelihood(samples, samples, masks=design, rows_per_call=given.batch)
    # The estimator's own masks of its first batch, for the other side.
    stream = RowRandom.from_seed(0, 1).fold_in(0).select(torch.zeros(samples, dtype=torch.int64))
    masks = design(torch.arange(samples), torch.full((samples,), given.answer), samples, random=stream)

    def ours() -> float:
        return float(estimator(model, process, [prompt], [answer]).log_likelihood)

    def plain() -> float:
        return naive.log_likelihood(model, prompt, answer, masks.masked, masks.weight, given.batch, vocab_size - 1)

    difference = must_equal("the log-likelihood, in nats,", abs(ours() - plain()), 1e-3)
    times = interleave({"plain": plain, "ours": ours}, given.rounds)
    return {
        "vocabulary": vocab_size,
        "samples": samples,
        "difference, nats": difference,
        "cpu s": times["ours"][0],
        "plain cpu s": times["plain"][0],
        "cpu ratio": times["plain"][0] / times["ours"][0],
        "wall ratio": times["plain"][1] / times["ours"][1],
    }


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--prompt", type=int, default=224)
    parser.add_argument("--answer", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="masked copies per model call")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    given: Any = parse(parser, arguments)
    rows = [measure(vocab, given) for vocab in given.vocab]
    goals = [
        Goal(f"ratio at a vocabulary of {row['vocabulary']:,}", row["cpu ratio"], GOALS[row["vocabulary"]])
        for row in rows
        if row["vocabulary"] in GOALS
    ]
    plot = Plot("vocabulary", "cpu ratio", title="Log-likelihood: plain / ours")
    return finish(Result("likelihood", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
