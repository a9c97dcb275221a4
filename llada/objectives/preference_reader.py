"""Bounds of answers, draw by draw, from noise that can be drawn again: estimates whose activations needn't be kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llada.denoiser import Denoiser
from llada.objectives.design import Design, Draw, segments_of
from llada.objectives.objective import Batch
from llada.process import Process
from llada.random import RowRandom
from llada.rows import chosen


@dataclass(frozen=True)
class AnswerReader:
    """Estimates the bounds of one answer of every pair; S data in a row, 1 unless it is packed.

    Args:
        design: how noise is drawn.
        process: the noise process.
        batch: columns of the answers, B rows.
        random: the pairs' random streams, for this answer.
        draws: how many draws there are.
    """

    design: Design
    process: Process
    batch: Batch
    random: RowRandom
    draws: int

    def draw(self, denoiser: Denoiser, number: int) -> Draw:
        """A draw, the same whenever it is asked for."""
        streams = self.random.fold_in(number)
        if self.draws > 1:  # the levels of a row's own draws are spread, whatever other rows there are
            streams = RowRandom(
                streams.keys, self.random.shared_key, (self.random.rows + number) % self.draws, self.draws
            )
        return self.design(denoiser, self.process, self.batch, random=streams)

    def read(self, denoiser: Denoiser, number: int, copy: int = 0) -> Tensor:
        """By one copy of a draw: B of each datum, and the log-likelihood of its scored tokens, (2, B, S)."""
        draw = self.draw(denoiser, number).copy(copy)
        terms = denoiser.token_nll(
            draw.tokens, draw.x_0, draw.scored, suppressed=self.process.suppressed, **draw.inputs
        )
        weights = chosen(draw.bound_weight, draw.scored)
        return -torch.stack((self.sums(weights * terms, draw.scored), self.sums(terms.detach(), draw.scored)))

    def bound(self, denoiser: Denoiser, number: int) -> Tensor:
        """B of each datum by one draw, (B, S) float64."""
        return self._joined(self.read, denoiser, number)[0]

    def replayed(self, denoiser: Denoiser, number: int) -> Tensor:
        """As `read`, by all copies of a draw; activations are computed again in the backward pass instead of kept."""
        read = partial(checkpoint, self.read, use_reentrant=False) if torch.is_grad_enabled() else self.read
        return self._joined(read, denoiser, number)

    def _joined(self, read: Callable[..., Tensor], denoiser: Denoiser, number: int) -> Tensor:
        """Copy by copy, so that memory is that of one: the mean of the bounds, and the tokens of the first copy."""
        copies = self.draw(denoiser, number).copies
        parts = torch.stack([read(denoiser, number, copy) for copy in range(copies)])
        return torch.stack((parts[:, 0].mean(0), parts[0, 1]))

    def sums(self, values: Tensor, where: Tensor) -> Tensor:
        """Sum over each datum, (N, S) float64.

        Args:
            values: (n,), of the n chosen tokens.
            where: (N, L) bool, N a multiple of B.
        """
        segments = segments_of(self.batch)
        numbers = torch.zeros_like(self.batch["tokens"]) if segments is None else segments
        size = 1 if segments is None else int(segments.max()) + 1
        rows = torch.arange(len(where), device=where.device)[:, None] * size
        data = chosen(rows + numbers.repeat(len(where) // len(numbers), 1), where)
        empty = torch.zeros(len(where) * size, dtype=torch.float64, device=where.device)
        return empty.index_add(0, data, values.double()).view(len(where), size)

    def tokens(self, draw: Draw) -> Tensor:
        """What the bound of each datum is about, (B, S) float64."""
        maskable = draw.maskable[: len(self.batch["tokens"])]
        return self.sums(torch.ones_like(maskable, dtype=torch.float64)[maskable], maskable)
