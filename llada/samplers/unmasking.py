"""The loop behind masked-diffusion decoding: run the model, propose, rank, commit, until no mask is left.

Published methods differ in which position comes first (`Order`), how many a step commits (`Commit`), where it may write
(`Window`), how a token is drawn (`Proposal`), how the model is guided (`Guidance`, `Adjustment`), what of it is kept
between steps (`CachePolicy`), and how time runs and whether tokens are taken back (`Rates`); each is an object that is
swapped alone.

Shapes: B rows, L columns of the canvas, M candidate positions per row in a step, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.amount.amount import Commit, Scored
from llada.samplers.amount.quota import Quota
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.checks import check_parts
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.constraints.joint import agree
from llada.samplers.guidance import Guidance
from llada.samplers.layout import Part, first_true, plan
from llada.samplers.order import BlindOrder, Confidence, Order
from llada.samplers.propose import Candidates, Proposal, Proposed
from llada.samplers.rates.rates import Ancestral, Progress, Rates
from llada.samplers.sampler import Sampler, Step
from llada.samplers.session import Predictor, Session
from llada.samplers.window import WholeCanvas, Window, ended, stopped


class _Job(NamedTuple):
    """What one window of one call works with."""

    session: Session
    predict: Predictor
    process: MaskingProcess
    random: RowRandom
    commit: Commit


class Chosen(NamedTuple):
    """What a step writes: proposals at (B, M) positions, which were considered, and which are taken.

    ``called`` (B,) bool are the rows that needed the model: not those that were known to take nothing.
    """

    proposed: Proposed
    considered: Tensor
    taken: Tensor
    called: Tensor


@dataclass(frozen=True)
class UnmaskingSampler(Sampler):
    """Fills the masks of a canvas by a composition of policies.

    Args:
        commit: how many positions a step commits.
        order: which positions come first.
        proposal: how a token is drawn.
        window: where a step may write.
        guidance: classifier-free guidance.
        cache: what is kept between steps.
        rates: how time runs, and whether tokens are taken back.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if the parts don't fit together.

    Example:
        >>> from llada.process import MaskingProcess
        >>> import torch
        >>> favourite = lambda tokens: torch.eye(4)[(tokens * 0 + 2)]
        >>> canvas = torch.tensor([[0, 3, 3]])
        >>> UnmaskingSampler(Quota(steps=2))(favourite, canvas, MaskingProcess(mask_token_id=3)).tokens
        tensor([[0, 2, 2]])
    """

    commit: Commit = field(default_factory=Quota)
    order: Order = field(default_factory=Confidence)
    proposal: Proposal = field(default_factory=Proposal)
    window: Window = field(default_factory=WholeCanvas)
    guidance: Guidance = field(default_factory=Guidance)
    cache: CachePolicy = field(default_factory=NoCache)
    rates: Rates = field(default_factory=Ancestral)
    adjustments: tuple[Adjustment, ...] = ()

    def __post_init__(self) -> None:
        check_parts(self)

    @torch.no_grad()
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """See `Sampler.iterate`."""
        fillable = process.is_masked(tokens)
        parts = plan(self.window, self.commit.steps, fillable)
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        commit, session = self.commit.start(), Session.begin(self, model, tokens, process, model_kwargs)

        canvas, calls = tokens.clone(), torch.zeros_like(tokens[:, 0])
        for index, part in enumerate(parts):
            streams = random.fold_in(len(parts) - index)  # rows that begin later have the same windows from there on
            job = _Job(session, session.open(part.start, part.stop), process, streams, commit)
            for step in self._fill(job, part, canvas, calls):
                canvas, calls = step.tokens, step.calls
                yield step
            if self.window.stop_token_id is not None and not self.window.stops_within:
                step = stop_rows(canvas, calls, fillable, part, self.window.stop_token_id, process)
                if bool(step.changed.any()):
                    canvas = step.tokens
                    yield step

    def _fill(self, job: _Job, part: Part, canvas: Tensor, calls: Tensor) -> Iterator[Step]:
        """Decode columns up to the end of a window until none of them is masked."""
        initial = job.process.is_masked(canvas)[:, : part.stop].sum(1)
        most = int(initial.max())
        total = most if part.total is None else part.total
        confidence = torch.full(canvas.shape, torch.nan, device=canvas.device)
        for k in range(total):
            masked = job.process.is_masked(canvas)[:, : part.stop]
            count = masked.sum(1)
            left = job.commit.masks_left(most, k, total) if part.even else None
            left = int(count.max()) if left is None else left
            if left == 0 and not self.rates.remasks:
                return
            if part.even and job.commit.masks_left(most, k + 1, total) == left:
                continue  # the quota of this step is zero for every row
            progress = Progress(k, part.num_steps, initial, count, job.process, self.rates, job.random.fold_in(-1))
            random = job.random.fold_in(k)
            job.predict.view.begin_step(left)
            candidates = self._candidates(job, canvas, masked, left)
            most_taken = job.commit.most(most, k, total) if part.even else None
            chosen = self._agree(job, self._choose(job, candidates, progress, random, most_taken), most_taken, random)
            again = self._take_back(job, part, masked, confidence, progress, random)
            if chosen is None and again is None:
                continue
            step = make_step(canvas, calls, chosen, again, job.process.mask_token_id)
            if self.window.stops_within:
                step = stop_at_once(step, job.session.fillable, self.window, job.process)
            confidence = torch.where(step.changed, step.confidence, confidence)
            canvas, calls = step.tokens, step.calls
            yield step

    def _candidates(self, job: _Job, canvas: Tensor, masked: Tensor, left: int) -> Candidates:
        width = left if self.window.width is None else min(left, self.window.width)
        return job.session.candidates(first_true(masked, width), canvas)

    def _choose(
        self, job: _Job, candidates: Candidates, progress: Progress, random: RowRandom, most: int | None
    ) -> Chosen | None:
        """Rank the candidates and take some; None if the model needn't be run."""
        if candidates.positions.shape[1] == 0:  # no mask is left, though some may come back
            return None
        if not isinstance(self.order, BlindOrder):
            return decide(job.commit, self.order, self._propose(job, candidates, progress, random), progress, random)
        ranking = random.fold_in(0)
        scored = Scored(self.order.blind(candidates, random=ranking), candidates)
        taken = job.commit(scored, progress, random=ranking)
        most = int(taken.sum(1).max()) if most is None else most
        if most == 0:
            return None
        columns, taken = first_true(taken, most)
        few = replace(candidates, positions=candidates.positions.gather(1, columns), valid=taken)
        return Chosen(self._propose(job, few, progress, random), taken, taken, taken.any(1))

    def _propose(self, job: _Job, candidates: Candidates, progress: Progress, random: RowRandom) -> Proposed:
        time = self.rates.time(progress) if job.process.time_conditioned else None
        return job.predict(candidates, time, random=random.fold_in(1))

    def _agree(self, job: _Job, chosen: Chosen | None, most: int | None, random: RowRandom) -> Chosen | None:
        """Bring the tokens to agree. A policy that needn't keep a count leaves those for later that would change."""
        if chosen is None or not any(adjustment.joint for adjustment in self.adjustments):
            return chosen
        agreed = agree(chosen.proposed, chosen.taken, most, job.predict.adjustments, self.proposal, random.fold_in(3))
        counts = job.commit.steps is not None or job.commit.masks_left(1, 0, 1) is not None
        taken = chosen.taken if counts else chosen.taken & (agreed.tokens == chosen.proposed.tokens)
        return chosen._replace(proposed=agreed, taken=taken)

    def _take_back(
        self, job: _Job, part: Part, masked: Tensor, confidence: Tensor, progress: Progress, random: RowRandom
    ) -> Tensor | None:
        """Which written tokens of the window are masked again, (B, L) bool."""
        if not self.rates.remasks:
            return None
        written = job.session.fillable.clone()
        written[:, : part.start] = False
        written[:, part.stop :] = False
        written[:, : part.stop] &= ~masked
        places = torch.arange(written.shape[1], device=written.device) - job.session.offset
        return written & (random.fold_in(2).uniform_at(places) < self.rates.remask(progress, written, confidence))


def decide(commit: Commit, order: Order, proposed: Proposed, progress: Progress, random: RowRandom) -> Chosen:
    """What a step writes, once the model has proposed."""
    ranking = random.fold_in(0)
    scored = Scored(order(proposed, random=ranking), proposed.candidates, proposed.logits)
    taken = commit(scored, progress, random=ranking)
    known = commit.most(1, 0, 1) is not None  # how many it takes follows from numbers; a row alone skips the step
    return Chosen(proposed, scored.valid, taken, (taken if known else scored.valid).any(1))


def make_step(canvas: Tensor, calls: Tensor, chosen: Chosen | None, again: Tensor | None, mask_token_id: int) -> Step:
    """The canvas with what was chosen, a new tensor, and what happened to it."""
    confidence = torch.full(canvas.shape, torch.nan, device=canvas.device)
    changed = torch.zeros_like(canvas, dtype=torch.bool)
    if chosen is not None:
        positions = chosen.proposed.candidates.positions
        tokens = torch.where(chosen.taken, chosen.proposed.tokens, canvas.gather(1, positions))
        canvas, calls = canvas.scatter(1, positions, tokens), calls + chosen.called
        shown = chosen.proposed.probability.masked_fill(~chosen.considered, torch.nan)
        confidence, changed = confidence.scatter(1, positions, shown), changed.scatter(1, positions, chosen.taken)
    if again is not None:
        canvas, changed = canvas.masked_fill(again, mask_token_id), changed | again
    return Step(canvas, changed, confidence, calls)


def stop_rows(canvas: Tensor, calls: Tensor, fillable: Tensor, part: Part, token: int, process: MaskingProcess) -> Step:
    """Fill what is left of the rows whose finished block holds the stop token."""
    rows = stopped(canvas, part.start, part.stop, token, fillable)
    changed = process.is_masked(canvas) & rows[:, None]
    nothing = torch.full(canvas.shape, torch.nan, device=canvas.device)
    return Step(canvas.masked_fill(changed, token), changed, nothing, calls)


def stop_at_once(step: Step, fillable: Tensor, window: Window, process: MaskingProcess) -> Step:
    """The step, with what is left of the rows filled that hold the stop token and no mask before it."""
    assert window.stop_token_id is not None
    masked = process.is_masked(step.tokens)
    filled = masked & ended(step.tokens, window.stop_token_id, fillable, masked)[:, None]
    tokens = step.tokens.masked_fill(filled, window.stop_token_id)
    return replace(step, tokens=tokens, changed=step.changed | filled)
