"""Decoding against the plain loop: model calls, process time and wall time of each method, equality first.

    python benchmarks/sampling.py                      # both vocabularies, one thread, a few minutes
    python benchmarks/sampling.py --vocab 1000 --rounds 1    # a quick look

One random model (width 256, 6 layers, float32), with a head so steep that it is as sure of some tokens as a trained
one. The plain loop has the cost profile of released code (benchmarks/naive.py): logits of the whole canvas at every
step, float64 noise over all of them. Cached methods are also held against a cached reference
(benchmarks/naive_cached.py), which rotates all keys again in every pass and joins or indexes them.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from naive import ancestral as naive_ancestral
from naive import low_confidence as naive_low_confidence
from naive_cached import Reference, decode
from timing import hardware, interleave, report, table

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import (
    Amount,
    Blocks,
    CachePolicy,
    Confidence,
    DualCache,
    NoCache,
    PrefixCache,
    Proposal,
    Quota,
    Sample,
    Threshold,
    UnmaskingSampler,
    ancestral,
)


def build(vocab_size: int) -> BidirectionalTransformer:
    """A random model of LLaDA's shape, scaled down."""
    torch.manual_seed(0)
    model = BidirectionalTransformer(vocab_size, width=256, num_layers=6, num_heads=4, hidden_width=768).eval()
    model.head.weight.data.mul_(8.0)  # confidences between 0.1 and 1, so that a threshold takes some and leaves some
    return model


GREEDY, CACHED = "plain loop, greedy", "cached reference, "
AGAINST: dict[str, list[str]] = {
    "greedy": [GREEDY],
    "temperature 0.5": ["plain loop, temperature 0.5"],
    "prefix cache": [GREEDY, f"{CACHED}prefix"],
    "dual cache": [GREEDY, f"{CACHED}dual"],
    "threshold 0.9": ["plain loop, threshold 0.9"],
    "threshold 0.9, prefix cache": ["plain loop, threshold 0.9", f"{CACHED}prefix, threshold 0.9"],
    "threshold 0.9, dual cache": ["plain loop, threshold 0.9", f"{CACHED}dual, threshold 0.9"],
    "ancestral, 128 steps": ["plain loop, ancestral"],
}
"""What each method is held against; all but those that draw must write the same tokens as the last of them."""


class Runs(NamedTuple):
    """What can be timed, by name."""

    ours: dict[str, Callable[[], Sample]]
    theirs: dict[str, Callable[[], Any]]


def runs(vocab_size: int, prompt_length: int, num_new: int) -> Runs:
    """Both sides at one vocabulary."""
    model, mask, block = build(vocab_size), vocab_size - 1, 32
    process = MaskingProcess(mask)
    prompt = torch.randint(mask, (1, prompt_length), generator=torch.Generator().manual_seed(1))
    canvas = torch.cat((prompt, torch.full((1, num_new), mask)), 1)
    empty = torch.full((2, 128), mask)

    def ours(commit: Amount, cache: CachePolicy, temperature: float = 0.0) -> Callable[[], Sample]:
        sampler = UnmaskingSampler(
            commit, Confidence(), proposal=Proposal(temperature), window=Blocks(block), cache=cache
        )
        return lambda: sampler(model, canvas, process)

    def plain(temperature: float) -> Callable[[], torch.Tensor]:
        return lambda: naive_low_confidence(model, prompt, num_new, num_new, block, temperature, mask)

    def theirs(reference: Reference | None, threshold: float | None) -> Callable[[], torch.Tensor]:
        return lambda: decode(reference, model, prompt, num_new, block, threshold, mask)[0]

    one, sure, prefix, dual = Quota(num_new), Threshold(0.9), Reference(model, False), Reference(model, True)
    return Runs(
        {
            "greedy": ours(one, NoCache()),
            "temperature 0.5": ours(one, NoCache(), 0.5),
            "prefix cache": ours(one, PrefixCache()),
            "dual cache": ours(one, DualCache()),
            "threshold 0.9": ours(sure, NoCache()),
            "threshold 0.9, prefix cache": ours(sure, PrefixCache()),
            "threshold 0.9, dual cache": ours(sure, DualCache()),
            "ancestral, 128 steps": lambda: ancestral(steps=128)(model, empty, process),
        },
        {
            GREEDY: plain(0.0),
            "plain loop, temperature 0.5": plain(0.5),
            "plain loop, threshold 0.9": theirs(None, 0.9),
            f"{CACHED}prefix": theirs(prefix, None),
            f"{CACHED}dual": theirs(dual, None),
            f"{CACHED}prefix, threshold 0.9": theirs(prefix, 0.9),
            f"{CACHED}dual, threshold 0.9": theirs(dual, 0.9),
            "plain loop, ancestral": lambda: naive_ancestral(model, 2, 128, 128, mask),
        },
    )


def measure(
    vocab_size: int, prompt_length: int, num_new: int, rounds: int, methods: list[str] | None
) -> list[dict[str, Any]]:
    """The methods at one vocabulary; None for all of them."""
    ours, theirs = runs(vocab_size, prompt_length, num_new)
    names = [name for name in ours if methods is None or name in methods]
    samples = {name: check(name, ours[name], theirs[AGAINST[name][-1]]) for name in names}
    needed = dict.fromkeys(against for name in names for against in AGAINST[name])
    times = interleave({**{name: theirs[name] for name in needed}, **{name: ours[name] for name in names}}, rounds)
    return [
        {
            "vocabulary": vocab_size,
            "method": name,
            "calls": int(samples[name].calls[0]),
            "tokens per call": round(float(samples[name].tokens_per_call[0]), 2),
            "against": against,
            "cpu s": round(times[name][0], 3),
            "their cpu s": round(times[against][0], 3),
            "cpu ratio": round(times[against][0] / times[name][0], 2),
            "wall ratio": round(times[against][1] / times[name][1], 2),
        }
        for name in names
        for against in AGAINST[name]
    ]


def check(name: str, ours: Callable[[], Sample], theirs: Callable[[], torch.Tensor]) -> Sample:
    """Methods that don't draw must give the same tokens before anything is timed."""
    sample = ours()
    if name not in ("temperature 0.5", "ancestral, 128 steps") and not torch.equal(sample.tokens, theirs()):
        raise SystemExit(f"{name}: the tokens differ from those of {AGAINST[name][-1]}; nothing was timed")
    return sample


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
