"""Visibility between causal and full: a later token is seen with a probability that grows from 0 to 1.

    seen(query, key) = key <= query or u(query, key) < share,   u uniform in (0, 1) for each pair of positions

so a next-token model can become one that sees everything in small steps. All rows of a step, in any batch and behind
any padding, have the same u; each step has its own.

Reference: Gong et al., "Scaling Diffusion Language Models via Adaptation from Autoregressive Models", arXiv 2410.17891,
section 3.2. Shapes: B rows, L tokens of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada import rows
from llada.backbones.attention.visibility import Rule, Visibility, indices
from llada.random import RowRandom

PAIRS = 0x71DE
"""Names the stream of numbers."""


@dataclass(frozen=True)
class Widening:
    """How far a backbone's attention has been widened.

    Args:
        share: of later tokens that are seen, in [0, 1].
        seed: of the run.
        step: optimiser steps taken.

    Raises:
        ValueError: if the share is out of range.
    """

    share: float
    seed: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must be in [0, 1]; got {self.share}")

    def opened(self, length: int, device: torch.device) -> Tensor:
        """Which pairs of positions are open beside the causal ones, (L, L) bool.

        Args:
            length: L; longer rows have the same pairs among their first L positions.
            device: of the result.
        """
        one = torch.zeros(1, dtype=torch.int64, device=device)
        random = RowRandom.for_step(self.seed, self.step, one, 1).fold_in(PAIRS)
        query, key = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)
        low, high = torch.minimum(query, key), torch.maximum(query, key)
        number = 2 * (high * high + low) + (query > key)  # of the pair, whatever the length
        return (random.uniform_at(number.view(1, -1)) < self.share).view(length, length)

    def visibility(self, tokens: Tensor, keys: Tensor | None, segments: Tensor | None) -> Visibility:
        """Who sees whom.

        Args:
            tokens: (B, L).
            keys: (B, L) bool, true for real tokens; None: all.
            segments: (B, L) integers of packed rows; None: a row is one segment.
        """
        if self.share in (0.0, 1.0):
            return Visibility(keys=keys, segments=segments, causal=self.share == 0.0)
        alike = keys is None and segments is None
        position = rows.positions(tokens[:1] if alike else tokens, keys, segments).clamp(min=0)
        opened = self.opened(tokens.shape[1], tokens.device)
        return Widened(keys=keys, segments=segments, position=position, opened=opened)


@dataclass(frozen=True, kw_only=True)
class Widened(Visibility):
    """A causal `Visibility` in which some pairs are open as well.

    Args:
        position: (1 or B, L) int64, position of each token.
        opened: (L, L) bool, for positions of queries and keys.
    """

    position: Tensor
    opened: Tensor

    @override
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        number, length = self.position.shape
        return indices(number, length, length, self.position.device)

    @override
    def rule(self) -> Rule:
        several = len(self.position) > 1

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            which = row if several else row * 0
            opened = self.opened[self.position[which, query], self.position[which, key]]
            return ((key <= query) | opened) & self.shown(row, query, key)

        return seen
