"""Backtracking by lost confidence (Saber): write what is surer than usual, take back what the model has come to doubt.

With c_i the probability of the model's present proposal at position i of the window, written or not, a step

- writes the masks with c_i above the mean confidence with which tokens of the window were written, or the n best if
  fewer than n are;
- then, unless no mask is left, masks those written positions again at which c_i has fallen most since the step before:
  one for every mu that were written, rounded up, n // 2 at least, and always fewer than were written.

So every step has a mask less, and n or more are written in each but the last.

Shapes: B rows, L columns of the canvas, M positions of the window in a row.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom
from llada.samplers.amount.amount import take_best
from llada.samplers.composed import ComposedSampler
from llada.samplers.layout import Span, first_true
from llada.samplers.rates.rates import Ancestral
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State


@dataclass(frozen=True)
class BacktrackingSampler(ComposedSampler):
    """Writes many tokens at once, and goes back on those whose places have become uncertain.

    Args:
        least: n, tokens that a step writes at least.
        per_removal: mu, one token is taken back for so many that are written.
        proposal: how a token is drawn.
        window: where a step may write; finished windows are left as they are.
        guidance: classifier-free guidance.
        cache: what is kept between steps; one that computes the whole window in each of them.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if a number is less than 1, or the parts don't fit together.

    Reference:
        "Saber: An Efficient Sampling with Adaptive Acceleration and Backtracking Enhanced Remasking for Diffusion
        Language Model", arXiv 2510.18165; the released ``generate_with_saber``.
    """

    least: int = 2
    per_removal: int = 8

    def __post_init__(self) -> None:
        for name in ("least", "per_removal"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if self.window.width is not None or not self.cache.editable:
            raise ValueError(
                "backtracking looks at all tokens of a window in each step: use WholeCanvas() or "
                "Blocks(block_length), and NoCache(), DualCache() or PrefixCache()"
            )
        if any(adjustment.joint for adjustment in self.adjustments):
            raise ValueError(
                "backtracking takes tokens back that a joint constraint has counted on; use UnmaskingSampler with it"
            )
        super().__post_init__()

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it masks tokens again that it has written"

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        inside = ~state.given
        inside[:, : span.start] = False
        inside[:, span.stop :] = False
        columns, within = first_true(inside, span.stop - span.start)
        before = torch.zeros(columns.shape, device=columns.device)
        written_with = torch.full_like(before, torch.nan)
        k = 0
        while True:
            left = state.open[:, : span.stop].sum(1)
            asking = left > 0
            if not bool(asking.any()):
                return state
            state = replace(state, step=k, left=left, columns=columns, valid=within & asking[:, None])
            run.cache.begin_call(asking)
            time = Ancestral().time(state) if state.process.time_conditioned else None
            state = run.propose(state, time, random=random.fold_in(k))
            sure = state.probability
            taken = self._taken(state, sure, written_with)
            again = self._again(state, taken, before - sure)
            before, written_with = sure, torch.where(taken, sure, written_with)
            state, step = write(state, taken, asking, again)
            yield step
            k += 1

    def _taken(self, state: State, sure: Tensor, written_with: Tensor) -> Tensor:
        """Open positions that are written, (B, M) bool."""
        masks = state.valid & state.open.gather(1, state.columns)
        usual = written_with.nanmean(1, keepdim=True).nan_to_num(1.0)
        above = masks & (sure > usual)
        least = take_best(sure, masks, torch.full_like(state.left, self.least))
        return torch.where(above.sum(1, keepdim=True) < self.least, least, above)

    def _again(self, state: State, taken: Tensor, lost: Tensor) -> Tensor:
        """Positions that are masks after the step though they were written, in it or before, (B, L) bool."""
        masks = state.valid & state.open.gather(1, state.columns) & ~taken
        count = taken.sum(1)
        number = (-(-count // self.per_removal)).clamp(min=self.least // 2).minimum(count - 1)
        chosen = take_best(lost, state.valid & ~masks, number) & masks.any(1, keepdim=True)
        return torch.zeros_like(state.open).scatter(1, state.columns, chosen)
