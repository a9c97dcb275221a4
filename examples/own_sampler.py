"""A way of decoding of your own: most are one small part in the loop that all samplers share.

    python examples/own_sampler.py

Two tokens that are written in the same step are drawn independently of each other. That is wrong where they depend on
each other, and neighbours do. So write tokens that are far apart together: with as many model calls, the rows come
closer to the true distribution. Shown on a toy language of known probabilities, with its exact denoiser as model, so
that the sampler is all that can be wrong.
"""

import argparse
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llada import MaskingProcess
from llada.data import ToyLanguage
from llada.samplers import LeftToRight, Order, Proposal, Quota, RandomOrder, State, UnmaskingSampler


@dataclass(frozen=True)
class FarApart(Order):
    """Positions by their bits read backwards: 0, 4, 2, 6, 1, 5, 3, 7 for rows of eight.

    A blind order doesn't look at the logits, so the model is run only where a token is going to be written. Others
    see them, with the tokens that were drawn.

    Args:
        num_bits: rows have 2 ** num_bits tokens at most.
    """

    blind: ClassVar[bool] = True
    num_bits: int

    def __call__(self, state: State) -> Tensor:
        """Minus the rank, for the highest score comes first."""
        bits = (state.positions[..., None] >> torch.arange(self.num_bits)) & 1
        return -(bits << torch.arange(self.num_bits).flip(0)).sum(-1).double()


def total_variation(language: ToyLanguage, rows: Tensor) -> float:
    """Half the sum of |frequency - probability| over all possible rows."""
    frequency = torch.bincount(language.index(rows), minlength=len(language.rows)) / len(rows)
    return float((frequency - language.probabilities.flatten()).abs().sum() / 2)


def main(num_rows: int) -> None:
    """Compare orders at several numbers of model calls."""
    language = ToyLanguage.markov(vocab_size=2, length=8, concentration=0.5, seed=3)
    process = MaskingProcess(language.mask_token_id)
    canvas = torch.full((num_rows, language.length), language.mask_token_id)
    orders: list[Order] = [RandomOrder(), LeftToRight(), FarApart(num_bits=3)]
    truth = language.sample(num_rows, torch.Generator().manual_seed(0))
    print(f"total variation distance of {num_rows} rows from the truth; of true rows: ", end="")
    print(f"{total_variation(language, truth):.3f}\n\n{'order':<24} 8 calls  4 calls  2 calls")
    for order in orders:
        distances = []
        for steps in (8, 4, 2):
            sampler = UnmaskingSampler(Quota(steps), order, proposal=Proposal(temperature=1.0))
            distances.append(total_variation(language, sampler(language.oracle, canvas, process).tokens))
        print(f"{order!s:<24} " + "  ".join(f"{distance:<7.3f}" for distance in distances))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_rows", type=int, default=20_000, help="rows to write with each sampler")
    main(parser.parse_args().num_rows)
