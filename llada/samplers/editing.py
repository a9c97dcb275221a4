"""Token editing: what a block has written may still be replaced, until the model is content with it (LLaDA2.1).

In each step, of the positions of the block,
- open ones are written as `llada.samplers.Threshold` would: those above a confidence, and always the best one;
- tokens that were written before are replaced where the model is now surer than another bound of another token.

A row goes on to its next block when nothing is open and a step has edited nothing.

Shapes: B rows, L columns of the canvas, M positions of the block in a row.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.process import Process
from llada.random import RowRandom
from llada.samplers.amount.amount import Threshold
from llada.samplers.layout import Span, first_true
from llada.samplers.order import Confidence
from llada.samplers.revising import RevisingSampler
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.window import Blocks, Window


@dataclass(frozen=True)
class EditingSampler(RevisingSampler):
    """Decodes block by block, and corrects a block before it is left.

    Args:
        threshold: least confidence of what is written into a mask.
        edit_threshold: a written token is replaced by another whose confidence is above this.
        max_edits: steps that a row may spend on a block after its last open position was written.
        draft: whether what stands at the open positions of the canvas is a draft to be edited; ``given`` says where it
            is, and masks in it are written. False: all of them become masks first.
        proposal: how a token is drawn.
        window: blocks.
        guidance: classifier-free guidance.
        cache: what is kept between steps; one that computes the whole block in each of them.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if ``max_edits`` is negative, or the parts don't fit together.

    Reference:
        Bie et al., "LLaDA2.1: Speeding Up Text Diffusion via Token Editing", arXiv 2602.08676; the released
        ``generate``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, EditingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = EditingSampler(window=Blocks(4))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    threshold: float = 0.95
    edit_threshold: float = 0.9
    max_edits: int = 16
    window: Window = field(default_factory=lambda: Blocks(32), kw_only=True)
    draft: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.max_edits < 0:
            raise ValueError(f"max_edits must be 0 or more; got {self.max_edits}")
        super().__post_init__()

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it replaces tokens that it has written"

    @override
    def from_draft(self) -> Self:
        return replace(self, draft=True)

    @override
    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        state = super().begin(tokens, process, given, seed, model_kwargs)
        if not self.draft:
            return state
        if given is None:
            raise ValueError("a draft can't be told from a prompt; say by given which tokens stay as they are")
        kept = ~state.given & ~process.is_masked(tokens)
        return replace(state, tokens=torch.where(kept, tokens, state.tokens), open=state.open & ~kept)

    @override
    def _writable(self, state: State) -> Tensor:
        return ~state.given if self.draft else state.open

    def _active(self, state: State, within: Tensor) -> Tensor:
        """The rows that have anything to write or to edit in a window, (B,) bool.

        Args:
            state: before the first step of the window.
            within: (B, M) bool, the positions of the window.
        """
        return within.any(1) if self.draft else state.initial > 0

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        window = first_true(state.inside, span.stop - span.start)
        active, extra = self._active(state, window[1]), torch.zeros_like(state.initial)
        for k in count():
            if not bool(active.any()):
                break
            state = self._at(run, state, k, window, active)
            state = run.propose(state, state.grid(), random=random.fold_in(k))
            written, edited = self._choose(state)
            finished = state.left == 0
            state, step = write(state, written | edited, active)
            extra = extra + finished
            yield step
            clean = ~state.open[:, : span.stop].any(1)
            active = active & ~(clean & ((finished & ~edited.any(1)) | (extra >= self.max_edits)))
        return state

    def _choose(self, state: State) -> tuple[Tensor, Tensor]:
        """Open positions that are written, and tokens that are replaced, (B, M) bool each."""
        unknown = state.open.gather(1, state.columns)
        scored = replace(state, scores=Confidence()(state), valid=state.valid & unknown)
        written = Threshold(self.threshold)(scored) & scored.valid
        other = state.drawn != state.tokens.gather(1, state.columns)
        return written, state.valid & ~unknown & other & (scored.scores > self.edit_threshold)
