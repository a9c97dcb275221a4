"""Rows that a next-token model continues itself, for conversions whose guesses are to be what it will write."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from llada.data import TextDataModule
from llada.module import DiffusionLM
from llada.samplers import NextToken

GIVEN = 8
"""Tokens of the text in front of each continuation."""


def mixed_rows(twin: DiffusionLM, data: TextDataModule, share: float, steps: int, batch: int, seed: int) -> Any:
    """Batches of text and of greedy continuations, shuffled.

    A guess of self-speculation is right where the causal pass would write the same token. In text the token behind an
    unknown one is hard to guess; in what the model writes at temperature 0 the unknown one follows from what is known.

    Args:
        twin: the next-token model.
        data: with its training part.
        share: of the rows that are continued, in (0, 1].
        steps: how many batches.
        batch: rows of each.
        seed: of what is continued, and of the shuffling.
    """
    tokens = torch.as_tensor(data.rows("train").file.tokens[:].astype("int64"))
    rows = tokens[: len(tokens) // data.max_length * data.max_length].view(-1, data.max_length)
    random = torch.Generator().manual_seed(seed)
    chosen = rows[torch.randint(len(rows), (steps * batch,), generator=random)]
    number = int(share * len(chosen))
    chosen[:number] = continued(twin, chosen[:number])
    listed = [{"tokens": row} for row in chosen]
    return DataLoader(listed, batch, shuffle=True, generator=random)  # type: ignore[arg-type]


@torch.no_grad()
def continued(twin: DiffusionLM, rows: Tensor) -> Tensor:
    """The rows (N, L) with everything behind their first tokens as the model writes it, greedily."""
    canvas = rows.clone()
    canvas[:, GIVEN:] = twin.process.mask_token_id
    return torch.cat([twin.generate(part, sampler=NextToken()).tokens for part in canvas.split(256)])
