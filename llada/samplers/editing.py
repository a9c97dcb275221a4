"""Token editing: what a block has written may still be replaced, until the model is content with it (LLaDA2.1).

In each step, of the positions of the block,
- masks are written as `llada.samplers.Threshold` would: those above a confidence, and always the best one;
- tokens that were written before are replaced where the model is now surer than another bound of another token.

A row goes on to its next block when no mask is left and a step has edited nothing.

Shapes: B rows, L columns of the canvas, M positions of the block in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.amount.amount import Commit, Scored, Threshold
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.checks import check_editing
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.guidance import Guidance
from llada.samplers.layout import Part, first_true, plan
from llada.samplers.order import Confidence
from llada.samplers.propose import Proposal, Proposed
from llada.samplers.rates.rates import Ancestral, Progress
from llada.samplers.sampler import Sampler, Step
from llada.samplers.session import Predictor, Session
from llada.samplers.unmasking import Chosen, make_step, stop_rows
from llada.samplers.window import Blocks, Window


@dataclass(frozen=True)
class EditingSampler(Sampler):
    """Decodes block by block, and corrects a block before it is left.

    Args:
        threshold: least confidence of what is written into a mask.
        edit_threshold: a written token is replaced by another whose confidence is above this.
        max_edits: steps that a row may spend on a block after its last mask is gone.
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
    """

    threshold: float = 0.95
    edit_threshold: float = 0.9
    max_edits: int = 16
    proposal: Proposal = field(default_factory=Proposal)
    window: Window = field(default_factory=lambda: Blocks(32))
    guidance: Guidance = field(default_factory=Guidance)
    cache: CachePolicy = field(default_factory=NoCache)
    adjustments: tuple[Adjustment, ...] = ()

    def __post_init__(self) -> None:
        if self.max_edits < 0:
            raise ValueError(f"max_edits must be 0 or more; got {self.max_edits}")
        check_editing(self)

    @torch.no_grad()
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """See `Sampler.iterate`."""
        fillable = process.is_masked(tokens)
        parts = plan(self.window, None, fillable)
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        session = Session.begin(self, model, tokens, process, model_kwargs)
        canvas, calls = tokens.clone(), torch.zeros_like(tokens[:, 0])
        for index, part in enumerate(parts):
            streams = random.fold_in(len(parts) - index)
            block = _Block(session, session.open(part.start, part.stop), streams, part)
            for step in self._fill(block, canvas, calls):
                canvas, calls = step.tokens, step.calls
                yield step
            if self.window.stop_token_id is not None:
                step = stop_rows(canvas, calls, fillable, part, self.window.stop_token_id, process)
                if bool(step.changed.any()):
                    canvas = step.tokens
                    yield step

    def _fill(self, block: "_Block", canvas: Tensor, calls: Tensor) -> Iterator[Step]:
        process, rule = block.session.process, Threshold(self.threshold)
        initial = process.is_masked(canvas)[:, : block.part.stop].sum(1)
        active, extra, k = initial > 0, torch.zeros_like(initial), 0
        while bool(active.any()):
            masked = process.is_masked(canvas)[:, : block.part.stop]
            progress = Progress(k, None, initial, masked.sum(1), process, Ancestral(), block.random)
            proposed = block.propose(canvas, progress)
            chosen = self._choose(proposed, rule, progress, active)
            edited = (chosen.taken & (canvas.gather(1, proposed.candidates.positions) != process.mask_token_id)).any(1)
            step = make_step(canvas, calls, chosen, None, process.mask_token_id)
            canvas, calls = step.tokens, step.calls
            finished = progress.left == 0
            extra = extra + finished
            yield step
            clean = ~process.is_masked(canvas)[:, : block.part.stop].any(1)
            active = active & ~(clean & ((finished & ~edited) | (extra >= self.max_edits)))
            k += 1

    def _choose(self, proposed: Proposed, rule: Commit, progress: Progress, active: Tensor) -> Chosen:
        candidates = proposed.candidates
        now = candidates.tokens.gather(1, candidates.positions)
        valid = candidates.valid & active[:, None]
        masked = valid & (now == candidates.mask_token_id)
        scores = Confidence()(proposed, random=progress.random)
        written = rule(Scored(scores, replace(candidates, valid=masked)), progress, random=progress.random) & masked
        edited = valid & ~masked & (proposed.tokens != now) & (scores > self.edit_threshold)
        return Chosen(proposed, valid, written | edited, active)


@dataclass(frozen=True)
class _Block:
    """What one window of one call works with."""

    session: Session
    predict: Predictor
    random: RowRandom
    part: Part

    def propose(self, canvas: Tensor, progress: Progress) -> Proposed:
        """A token for every position of the block that wasn't given."""
        start, stop = self.part.start, self.part.stop
        inside = self.session.fillable[:, :stop].clone()
        inside[:, :start] = False
        candidates = self.session.candidates(first_true(inside, stop - start), canvas)
        time = progress.rates.time(progress) if progress.process.time_conditioned else None
        return self.predict(candidates, time, random=self.random.fold_in(progress.step))
