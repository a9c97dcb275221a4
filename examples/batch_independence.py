"""A row's sample doesn't depend on its neighbours: random compositions, each row in its batch and alone.

    python -m examples.batch_independence                 # 500 compositions in float64
    python -m examples.batch_independence --dtype float32

In float64 tokens and model calls must be equal. In float32 a product of matrices rounds differently in another shape,
so two candidates that are equal up to rounding may change places. A row may differ then only if it is on such a tie
alone: if noise of the size of that rounding on the model's answers changes its own result.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples.compositions import PROCESS, Composition, compose, network

NOISE, TRIES = 1e-5, 20  # of the logits, relative to the largest; and how often a row is run with it


@dataclass(frozen=True)
class Outcome:
    """What came of a composition.

    Args:
        refused: what the sampler said if it can't fill the batch; empty if it did.
        differ: the rows that are others alone, in tokens or in calls, by name.
        ties: those of them that are on a tie.
    """

    refused: str
    differ: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()


class Noisy(nn.Module):
    """A head whose logits carry noise of the size of rounding."""

    def __init__(self, head: nn.Module, seed: int) -> None:
        super().__init__()
        self.head, self.random = head, torch.Generator().manual_seed(seed)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., D) to (..., V)."""
        logits: Tensor = self.head(hidden)
        noise = torch.rand(logits.shape, generator=self.random, dtype=logits.dtype) * 2 - 1
        return logits + NOISE * logits.abs().max() * noise


def compare(drawn: Composition, dtype: torch.dtype) -> Outcome:
    """Fill a composition's rows together and alone."""
    model, (tokens, mask) = network(drawn.network, dtype, drawn.sharpness, drawn.seed), drawn.batch()
    seeds = torch.arange(len(tokens)) * 7 + drawn.number
    try:
        together = drawn.sampler(model, tokens, PROCESS, seed=seeds, attention_mask=mask)
    except ValueError as error:
        return Outcome(str(error))
    differ, ties = [], []
    for row, real in enumerate(mask):
        alone = tokens[row][real][None], seeds[row : row + 1]
        single = drawn.sampler(model, alone[0], PROCESS, seed=alone[1])
        words = [] if torch.equal(single.tokens[0], together.tokens[row][real]) else ["tokens"]
        words += [] if single.calls[0] == together.calls[row] else ["calls"]
        if words:
            differ.append(f"row {row}: {', '.join(words)}")
            if dtype != torch.float64 and _on_a_tie(drawn, model, *alone, single):
                ties.append(differ[-1])
    return Outcome("", tuple(differ), tuple(ties))


def _on_a_tie(drawn: Composition, model: Any, tokens: Tensor, seed: Tensor, single: Any) -> bool:
    """Whether noise of the size of rounding changes a row that is alone."""
    head = model.head
    try:
        for attempt in range(TRIES):
            model.head = Noisy(head, attempt)
            other = drawn.sampler(model, tokens, PROCESS, seed=seed)
            if not torch.equal(other.tokens, single.tokens) or not torch.equal(other.calls, single.calls):
                return True
    finally:
        model.head = head
    return False


def outcomes(first: int, count: int, dtype: torch.dtype) -> Iterator[tuple[Composition, Outcome]]:
    """So many compositions that aren't refused, from a number on.

    Args:
        first: number of the first one that is tried.
        count: how many are wanted.
        dtype: of the network.
    """
    number = first
    while count:
        drawn = compose(number)
        outcome, number = compare(drawn, dtype), number + 1
        if not outcome.refused:
            count -= 1
            yield drawn, outcome


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; 1 if a row differs that isn't on a tie."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="compositions that are compared")
    parser.add_argument("--first", type=int, default=0, help="number of the first composition")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    chosen = parser.parse_args(arguments)
    independent = ties = 0
    for drawn, outcome in outcomes(chosen.first, chosen.count, getattr(torch, chosen.dtype)):
        wrong = set(outcome.differ) - set(outcome.ties)
        independent += not wrong
        ties += bool(outcome.ties)
        if wrong:
            print(f"{drawn.number}: {'; '.join(sorted(wrong))}")
            network_of = f"{drawn.network}, sharpness {drawn.sharpness}, seed {drawn.seed}"
            print(f"    {network_of}\n    {drawn.sampler}\n    {drawn.rows}")
    print(f"{independent} of {chosen.count} compositions are independent of the batch in {chosen.dtype}", end="")
    print(f", {ties} of them up to ties" if ties else "")
    return int(independent < chosen.count)


if __name__ == "__main__":
    sys.exit(main())
