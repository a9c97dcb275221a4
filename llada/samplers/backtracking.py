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
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom
from llada.samplers.amount.amount import take_best
from llada.samplers.layout import Span, first_true
from llada.samplers.revising import RevisingSampler
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State


@dataclass(frozen=True)
class BacktrackingSampler(RevisingSampler):
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

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import BacktrackingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = BacktrackingSampler(least=2)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    least: int = 2
    per_removal: int = 8

    def __post_init__(self) -> None:
        for name in ("least", "per_removal"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        super().__post_init__()

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        window = first_true(state.inside, span.stop - span.start)
        before = torch.zeros(window[0].shape, device=window[0].device)
        written_with = torch.full_like(before, torch.nan)
        for k in count():
            asking = state.open[:, : span.stop].any(1)
            if not bool(asking.any()):
                break
            state = self._at(run, state, k, window, asking)
            state = run.propose(state, state.grid(), random=random.fold_in(k))
            sure = state.probability
            taken = self._taken(state, sure, written_with)
            again = self._again(state, taken, before - sure)
            before, written_with = sure, torch.where(taken, sure, written_with)
            state, step = write(state, taken, asking, again)
            yield step
        return state

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
