"""Self-speculative decoding: several steps of greedy decoding per model call, with the same result.

The model's favourites of one canvas are good guesses of its next steps. So a call runs the canvas together with copies
in which the first 1, 2, ..., J guesses are already written, as one batch. What step-by-step decoding would do is read
from the copies in turn: as long as it is the guess, the next copy is the canvas that it would have come to.

Shapes: B rows, J guesses, S = J + 1 states per row, L columns of the canvas, M candidate positions of a state.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.amount.amount import Scored, best, ranks
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.checks import check_speculative
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.guidance import Guidance
from llada.samplers.layout import Part, first_true, plan
from llada.samplers.order import Confidence, Order
from llada.samplers.propose import Proposal, Proposed
from llada.samplers.sampler import Sampler, Step
from llada.samplers.session import Predictor, Session
from llada.samplers.window import WholeCanvas, Window


class Guesses(NamedTuple):
    """What the next steps may write: positions and tokens, (B, J) int64 each, and which are guesses, (B, J) bool."""

    positions: Tensor
    tokens: Tensor
    valid: Tensor


@dataclass(frozen=True)
class SpeculativeSampler(Sampler):
    """Writes what an `UnmaskingSampler` of the same parts with ``commit=PerStep(1)`` writes, in fewer calls.

    A call has ``guesses + 1`` times the rows, so it pays where the device isn't busy with one. `Step`s come once per
    call, with all tokens that it settled. Without a cache rows look ahead across the ends of blocks; with one they stop
    there, because a cache is opened for one block.

    Args:
        guesses: J; a call settles between 1 and J + 1 tokens.
        order: which position comes first.
        proposal: how a token is chosen; temperature 0.
        window: where a step may write.
        guidance: classifier-free guidance; twice the rows again.
        cache: what is kept between steps; one that doesn't depend on how many there are.
        adjustments: constraints that edit the logits, applied in this order.

    Raises:
        ValueError: if the parts leave anything to chance or don't fit together, or ``guesses`` is less than 1.

    Reference:
        Gao et al., "Self Speculative Decoding for Diffusion Large Language Models", arXiv 2510.04147.
    """

    guesses: int = 4
    order: Order = field(default_factory=Confidence)
    proposal: Proposal = field(default_factory=Proposal)
    window: Window = field(default_factory=WholeCanvas)
    guidance: Guidance = field(default_factory=Guidance)
    cache: CachePolicy = field(default_factory=NoCache)
    adjustments: tuple[Adjustment, ...] = ()

    def __post_init__(self) -> None:
        if self.guesses < 1:
            raise ValueError(f"guesses must be 1 or more; got {self.guesses}")
        check_speculative(self)

    @torch.no_grad()
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """See `Sampler.iterate`."""
        parts = plan(self.window, None, process.is_masked(tokens))
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)

        @cache
        def session(width: int) -> Session:
            """For so many states per row."""
            repeated = {
                name: value.repeat_interleave(width, 0) if isinstance(value, Tensor) else value
                for name, value in model_kwargs.items()
            }
            return Session.begin(self, model, tokens.repeat_interleave(width, 0), process, repeated)

        nothing = self._nothing(tokens)
        session(nothing.valid.shape[1] + 1)  # refuses what can't be decoded
        canvas, calls = tokens.clone(), torch.zeros_like(tokens[:, 0])
        together = [parts] if parts else []
        for group in [[part] for part in parts] if self.cache.windowed else together:
            run = _Run(session, group, process, random, tokens)
            for step in self._fill(run, nothing, canvas, calls):
                canvas, calls = step.tokens, step.calls
                yield step

    def _nothing(self, tokens: Tensor) -> Guesses:
        """No guesses; with a cache, whose buffers have rows for all states, as many columns as there may be."""
        empty = tokens.new_zeros(len(tokens), self.guesses if self.cache.windowed else 0)
        return Guesses(empty, empty, empty.bool())

    def _fill(self, run: "_Run", nothing: Guesses, canvas: Tensor, calls: Tensor) -> Iterator[Step]:
        """Decode a group of windows."""
        guesses, stop = nothing, self.window.stop_token_id
        while bool((waiting := run.masked(canvas).any(1)).any()):
            states = _states(canvas, guesses)
            if stop is not None:
                states = torch.stack([run.stop(canvas, state, stop) for state in states.unbind(1)], 1)
            after, confidence, guesses = self._call(run, states, guesses)
            guesses = _pad(guesses, nothing.valid.shape[1])
            if stop is not None:
                after = run.stop(canvas, after, stop)
            calls = calls + waiting
            changed = after != canvas
            canvas = after
            yield Step(canvas, changed, confidence, calls)

    def _call(self, run: "_Run", states: Tensor, guesses: Guesses) -> tuple[Tensor, Tensor, Guesses]:
        """The canvas after all steps that one call settles, its confidences, and the next guesses."""
        rows, width, length = states.shape
        proposed = run.propose(states)
        candidates = proposed.candidates
        scored = Scored(self.order(proposed, random=run.random), candidates)
        taken = best(scored)
        column = taken.int().argmax(1, keepdim=True)
        position = candidates.positions.gather(1, column).view(rows, width)
        token = proposed.tokens.gather(1, column).view(rows, width)
        some = taken.any(1).view(rows, width)

        right = (position[:, :-1] == guesses.positions) & (token[:, :-1] == guesses.tokens) & some[:, :-1]
        settled = (right & guesses.valid).long().cumprod(1).sum(1, keepdim=True)  # (B, 1): the last true state
        index = torch.arange(rows, device=states.device) * width + settled[:, 0]
        last, place = states.flatten(0, 1)[index], position.gather(1, settled)
        written = torch.where(some.gather(1, settled), token.gather(1, settled), last.gather(1, place))
        last = last.scatter(1, place, written)
        shown = proposed.probability.masked_fill(~candidates.valid, torch.nan)[index]
        confidence = torch.full((rows, length), torch.nan, device=states.device)
        confidence = confidence.scatter(1, candidates.positions[index], shown.float())
        return last, confidence, self._next(scored, proposed, taken, index)

    def _next(self, scored: Scored, proposed: Proposed, taken: Tensor, index: Tensor) -> Guesses:
        """The favourites of the last true states, without the one that was written."""
        valid = (scored.valid & ~taken)[index]
        rank = ranks(scored.scores[index], valid)
        order = torch.empty_like(rank).scatter(1, rank, torch.arange(rank.shape[1], device=rank.device).expand_as(rank))
        order = order[:, : self.guesses]
        positions = scored.positions[index].gather(1, order)
        return Guesses(positions, proposed.tokens[index].gather(1, order), valid.gather(1, order))


class _Run:
    """What is worked with in a group of windows, over which a call may look ahead.

    Args:
        session: for a number of states per row.
        group: the windows.
        process: owner of the mask token.
        random: the rows' streams.
        tokens: (B, L) int64, the canvas before the first step.
    """

    def __init__(
        self,
        session: Callable[[int], Session],
        group: list[Part],
        process: MaskingProcess,
        random: RowRandom,
        tokens: Tensor,
    ) -> None:
        self.session, self.process, self.random = session, process, random
        self.fillable, self.end = process.is_masked(tokens), group[-1].stop
        self.starts, self.stops = torch.tensor([part[:2] for part in group], device=tokens.device).T.contiguous()
        self.predict: Callable[[int], Predictor] = cache(lambda width: session(width).open(group[0].start, self.end))

    def propose(self, states: Tensor) -> Proposed:
        """Tokens for the open window of each state (B, S, L), as a batch of B * S."""
        width, tokens = states.shape[1], states.flatten(0, 1)
        session, masked = self.session(width), self.masked(tokens)
        window = self.window(masked).clamp(max=len(self.stops) - 1)
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        begun = columns < self.stops[window][:, None]
        open_now = masked & begun
        candidates = session.candidates(first_true(open_now, int(open_now.sum(1).max())), tokens)
        time = None
        if self.process.time_conditioned:  # that of a step of one token, as `Progress.grid` tells it
            initial = (session.fillable & begun & (columns >= self.starts[window][:, None])).sum(1)
            time = open_now.sum(1).double() / initial.clamp(min=1)
        return self.predict(width)(candidates, time, random=self.random)

    def masked(self, tokens: Tensor) -> Tensor:
        """The masks of the group, (..., L) bool."""
        return self.process.is_masked(tokens) & (torch.arange(tokens.shape[-1], device=tokens.device) < self.end)

    def window(self, masked: Tensor) -> Tensor:
        """Index of the window that each state is in, that of its first mask; behind the last if there is none."""
        first = torch.where(masked.any(1), masked.int().argmax(1), masked.shape[1])
        return torch.searchsorted(self.stops, first, right=True)

    def stop(self, before: Tensor, after: Tensor, token: int) -> Tensor:
        """Fill what is left of the rows that have just finished a window with the stop token in it."""
        window, left = (self.window(self.masked(tokens)) for tokens in (before, after))
        index = window.clamp(max=len(self.stops) - 1)
        columns = torch.arange(after.shape[1], device=after.device)
        inside = (columns >= self.starts[index][:, None]) & (columns < self.stops[index][:, None])
        found = (left > window) & ((after == token) & self.fillable & inside).any(1)
        return after.masked_fill(self.process.is_masked(after) & found[:, None], token)


def _states(canvas: Tensor, guesses: Guesses) -> Tensor:
    """The canvas with 0, 1, ..., J guesses written, (B, J + 1, L)."""
    states = [canvas]
    for position, token, valid in zip(*(part.unbind(1) for part in guesses), strict=True):
        state, column = states[-1], position[:, None]
        states.append(state.scatter(1, column, torch.where(valid[:, None], token[:, None], state.gather(1, column))))
    return torch.stack(states, 1)


def _pad(guesses: Guesses, width: int) -> Guesses:
    """At least ``width`` columns of guesses, the others not valid."""
    missing = max(0, width - guesses.valid.shape[1])
    return Guesses(*(torch.nn.functional.pad(part, (0, missing)) for part in guesses))
