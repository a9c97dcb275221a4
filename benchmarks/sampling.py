"""Decoding against the plain loop: model calls, process time and wall time of each method, equality first.

    python benchmarks/sampling.py                      # both vocabularies, one thread, a few minutes
    python benchmarks/sampling.py --vocab 1000 --rounds 1    # a quick look

One random model (width 256, 6 layers, float32). The plain loop has the cost profile of released code
(benchmarks/naive.py): logits of the whole canvas at every step, float64 noise over all of them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from naive import ancestral as naive_ancestral
from naive import low_confidence as naive_low_confidence
from timing import hardware, interleave, report, table

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import Blocks, Confidence, Proposal, Quota, Threshold, UnmaskingSampler, ancestral
from llada.samplers.cached import DualCache, PrefixCache


def build(vocab_size: int) -> BidirectionalTransformer:
    """A random model of LLaDA's shape, scaled down."""
    torch.manual_seed(0)
    return BidirectionalTransformer(vocab_size, width=256, num_layers=6, num_heads=4, hidden_width=768).eval()


def measure(
    vocab_size: int, prompt_length: int, num_new: int, rounds: int, methods: list[str] | None
) -> list[dict[str, Any]]:
    """The methods at one vocabulary; None for all of them."""
    model, mask, block = build(vocab_size), vocab_size - 1, 32
    process = MaskingProcess(mask)
    prompt = torch.randint(mask, (1, prompt_length), generator=torch.Generator().manual_seed(1))
    canvas = torch.cat((prompt, torch.full((1, num_new), mask)), 1)
    empty = torch.full((2, 128), mask)
    quota = {"commit": Quota(num_new), "order": Confidence(), "window": Blocks(block)}
    ours: dict[str, Callable[[], Any]] = {
        "greedy": lambda: UnmaskingSampler(**quota)(model, canvas, process),
        "temperature 0.5": lambda: UnmaskingSampler(**quota, proposal=Proposal(0.5))(model, canvas, process),
        "prefix cache": lambda: UnmaskingSampler(**quota, cache=PrefixCache())(model, canvas, process),
        "dual cache": lambda: UnmaskingSampler(**quota, cache=DualCache())(model, canvas, process),
        "threshold 0.9": lambda: UnmaskingSampler(Threshold(0.9), window=Blocks(block))(model, canvas, process),
        "ancestral, 128 steps": lambda: ancestral(steps=128)(model, empty, process),
    }
    plain: dict[str, Callable[[], Any]] = {
        "plain loop, greedy": lambda: naive_low_confidence(model, prompt, num_new, num_new, block, 0.0, mask),
        "plain loop, temperature 0.5": lambda: naive_low_confidence(model, prompt, num_new, num_new, block, 0.5, mask),
        "plain loop, ancestral": lambda: naive_ancestral(model, 2, 128, 128, mask),
    }
    check(ours["greedy"]().tokens, plain["plain loop, greedy"]())
    other = {"temperature 0.5": "plain loop, temperature 0.5", "ancestral, 128 steps": "plain loop, ancestral"}
    ours = {name: run for name, run in ours.items() if methods is None or name in methods}
    needed = {other.get(name, "plain loop, greedy") for name in ours}
    times = interleave({**{name: plain[name] for name in plain if name in needed}, **ours}, rounds)
    rows = []
    for name, run in ours.items():
        against = other.get(name, "plain loop, greedy")
        cpu, wall = times[name]
        sample = run()
        rows.append(
            {
                "vocabulary": vocab_size,
                "method": name,
                "calls": int(sample.calls[0]),
                "tokens per call": round(float(sample.tokens_per_call[0]), 2),
                "cpu s": round(cpu, 3),
                "plain cpu s": round(times[against][0], 3),
                "cpu ratio": round(times[against][0] / cpu, 2),
                "wall ratio": round(times[against][1] / wall, 2),
            }
        )
    return rows


def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Greedy decoding must give the same tokens before anything is timed."""
    if not torch.equal(ours, theirs):
        raise SystemExit("greedy decoding differs from the plain loop; nothing was timed")


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 126_464])
    parser.add_argument("--prompt", type=int, default=192, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to write, one per step")
    parser.add_argument("--methods", nargs="+", help="as they are called in the table; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [
        row for vocab in given.vocab for row in measure(vocab, given.prompt, given.new, given.rounds, given.methods)
    ]
    print(f"{hardware()}; prompt {given.prompt}, {given.new} new tokens, median of {given.rounds} interleaved rounds\n")
    print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    report("sampling", rows)


if __name__ == "__main__":
    main()
