"""Particles: many unfinished texts of one row with weights, and their resampling.

Weights w_1 .. w_P say how much each particle counts. Systematic resampling takes particle i, with its share
W_i = w_i / sum w, as often as the integer below P W_i or the one above, and P W_i times in the mean. Then all count as
much as the mean weight, so that sums over particles keep their expectations. It is done where the effective number,

    1 / sum_i W_i^2,

is small.

Shapes: B rows, P particles per row, L columns. Particles of a row are neighbours in a batch of B P rows.

Reference: Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers" (JRSS B 2006).
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from llada.samplers.sampler import Step
from llada.samplers.state import State


class Particles(NamedTuple):
    """Weighted texts.

    Attributes:
        tokens: (B, P, L) int64.
        log_weights: (B, P) float64; the texts follow p(x) exp(r(x)) by these weights.
        log_evidence: (B,) float64 nats, the log of an unbiased estimate of sum_x p(x) exp(r(x)); minus infinity where
            no particle may be.
        calls: (B,) int64, model calls of all particles of a row.
    """

    tokens: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    calls: Tensor


@dataclass(frozen=True, eq=False)
class Cloud:
    """The particles of all rows.

    Args:
        state: of B P rows.
        log_weights: (B, P) float64.
        total: (B P,) int64, steps of each particle.
        mask: (B P, L) attention mask, or None.
        done: (B P,) int64, steps that were taken.
        moved: (B P,) bool, the particles that took the last one.
        values: (B P,) float64, what the weights took the texts to be worth.
        last: what viewers see of the last step.
    """

    state: State
    log_weights: Tensor
    total: Tensor
    mask: Tensor | None
    done: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    moved: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))
    values: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    last: Step | None = None

    @property
    def guess(self) -> Tensor:
        """(B P, L) int64, the canvas with the model's best tokens where it may still change."""
        state = self.state
        tokens = state.tokens.gather(1, state.columns)
        waits = state.valid if state.process.scatters else state.valid & state.process.is_masked(tokens)
        tokens = torch.where(waits & (self.done < self.total)[:, None], state.logits.argmax(-1), tokens)
        return state.tokens.scatter(1, state.columns, tokens)

    @property
    def seen(self) -> Tensor | None:
        """The attention mask without what stands behind the block at hand and is noise still, (B P, L) bool or None."""
        behind = self.state.open.clone()
        behind[:, : self.state.stop] = False
        if self.state.stop >= behind.shape[1]:
            return self.mask
        return ~behind if self.mask is None else self.mask.bool() & ~behind

    def resampled(self, uniform: Tensor, threshold: float) -> "Cloud":
        """The particles drawn by their weights, in the rows where these are uneven and which took the last step.

        Args:
            uniform: (B, 1) float64, a number per row.
            threshold: the share of P below which the effective number of particles is too small.
        """
        number, count = self.log_weights.shape
        share = self.log_weights.softmax(1)
        few = 1.0 / share.square().sum(1) < threshold * count * (1.0 + 1e-9)  # not where all weights are 0: NaN
        few = few & self.moved.view(number, count).any(1)
        every = torch.arange(count, device=share.device)
        chosen = torch.searchsorted(share.cumsum(1), (uniform + every) / count, right=True).clamp(max=count - 1)
        chosen = torch.where(few[:, None], chosen, every)
        chosen = chosen + count * torch.arange(number, device=share.device)[:, None]
        mean = self.log_evidence[:, None].expand_as(share)
        return self._select(chosen.flatten(), torch.where(few[:, None], mean, self.log_weights))

    @property
    def log_evidence(self) -> Tensor:
        """The log of the mean weight, (B,) float64 nats."""
        return self.log_weights.logsumexp(1) - math.log(self.log_weights.shape[1])

    def _select(self, rows: Tensor, log_weights: Tensor) -> "Cloud":
        """Other particles, (B P,) int64 of these, with their weights."""
        state = self.state
        # What is open, where the candidates stand and how many calls were made is the same for all of a row's.
        names = ("tokens", "logits", "drawn", "stable", "num_steps")
        found = {name: getattr(state, name) for name in names if getattr(state, name) is not None}
        state = replace(state, **{name: value[rows] if value.numel() else value for name, value in found.items()})
        return replace(self, state=state, log_weights=log_weights, values=self.values.expand(len(rows))[rows])

    def shown(self, particle: Tensor, before: Tensor) -> Step:
        """One particle (B,) of each row as a step after the canvas ``before``, (B, L)."""
        assert self.last is not None
        number, count = self.log_weights.shape
        rows = torch.arange(number, device=particle.device) * count + particle
        tokens = self.state.tokens[rows]
        waits = self.state.open[rows] & self.state.process.is_masked(tokens)
        calls = self.state.calls.view(number, count).sum(1)
        return Step(tokens, tokens != before, self.last.confidence[rows], calls, waits, rewrites=True)
