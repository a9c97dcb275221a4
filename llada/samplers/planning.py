"""Path planning (P2): in every step all tokens of the answer compete, and the least likely ones are masked again.

Step k of K proposes a token at every position of the window, written or not, and ranks them by the log-probability of
what was proposed. The floor(n (1 - (k + 1) / K)) lowest of n positions are masks afterwards. Open ones above that get
the token that was proposed; written ones keep theirs.

Shapes: B rows, L columns of the canvas, M positions of the window in a row.
"""

from collections.abc import Generator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom
from llada.samplers.amount.amount import ranks
from llada.samplers.amount.quota import check_steps
from llada.samplers.layout import Span, first_true, plan
from llada.samplers.revising import RevisingSampler
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State, token_probability


@dataclass(frozen=True)
class PlanningSampler(RevisingSampler):
    """Writes the likeliest, and takes back what is no longer among them.

    Args:
        steps: K for the whole canvas, shared by the blocks; None for one per mask.
        doubt: what the log-probabilities of written tokens are multiplied with (the paper's eta): more than 1 takes
            more of them back, 0 none.
        proposal: how a token is drawn; its temperature, top-p and top-k also make the probabilities.
        window: where a step may write.
        guidance: classifier-free guidance.
        cache: what is kept between steps; one that computes the whole window in each of them.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if an option is out of its range, or the parts don't fit together.

    Reference:
        Peng et al., "Path Planning for Masked Diffusion Model Sampling", arXiv 2502.03540, self-planning.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PlanningSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = PlanningSampler(steps=4)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    steps: int | None = None
    doubt: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not self.doubt >= 0.0:
            raise ValueError(f"doubt must be 0 or more; got {self.doubt}")
        super().__post_init__()

    @override
    def _spans(self, state: State) -> list[Span]:
        return plan(self.window, self.steps, state.open, on_grid=True)

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        window = first_true(state.inside, span.stop - span.start)
        number = state.inside.sum(1)
        for k in count():
            asking = state.open[:, : span.stop].any(1)
            if not bool(asking.any()):
                break
            state = self._at(run, state, k, window, asking)
            state = run.propose(state, state.grid(), random=random.fold_in(k))
            # A number that is whole stays so in spite of rounding.
            masked = (number * state.grid(1) + 1e-9).floor().long().masked_fill(state.is_last, 0)
            taken, again = self._rank(state, masked)
            state, step = write(state, taken, asking, again)
            yield step
        return state

    def _rank(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Open positions that are written (B, M), and written ones that are masked again, (B, L) bool each."""
        still_open = state.open.gather(1, state.columns)
        sure = token_probability(state.filtered, state.drawn).log()
        scores = torch.where(still_open, sure, sure * self.doubt if self.doubt else torch.zeros_like(sure))
        high = ranks(scores, state.valid) < (state.valid.sum(1) - masked)[:, None]
        again = torch.zeros_like(state.open).scatter(1, state.columns, state.valid & ~still_open & ~high)
        return state.valid & still_open & high, again
