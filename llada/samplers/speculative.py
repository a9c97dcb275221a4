"""Self-speculative decoding: several steps of greedy decoding per model call, with the same result.

The model's favourites of one canvas are good guesses of its next steps. So a call runs the canvas together with copies
in which the first 1, 2, ..., J guesses are already written, as one batch. What step-by-step decoding would do is read
from the copies in turn: as long as it is the guess, the next copy is the canvas that it would have come to.

Shapes: B rows, J guesses, S = J + 1 states per row, L columns of the canvas, M candidate positions of a state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.commit import Scored, best, ranks
from llada.samplers.layout import first_true, left_padding, plan
from llada.samplers.order import BlindOrder, Confidence, Order, Stochastic
from llada.samplers.propose import Candidates, Proposal, Proposed
from llada.samplers.sampler import Sampler, Step
from llada.samplers.window import WholeCanvas, Window


class Guesses(NamedTuple):
    """What the next steps may write: positions and tokens, (B, J) int64 each, and which are guesses, (B, J) bool."""

    positions: Tensor
    tokens: Tensor
    valid: Tensor


@dataclass(frozen=True)
class SpeculativeSampler(Sampler):
    """Writes what ``UnmaskingSampler(PerStep(1), order, proposal, window)`` writes, in fewer calls.

    A call has ``guesses + 1`` times the rows, so it pays where the device isn't busy with one. `Step`s come once per
    call, with all tokens that it settled.

    Args:
        guesses: J; a call settles between 1 and J + 1 tokens.
        order: which position comes first.
        proposal: how a token is chosen; temperature 0.
        window: where a step may write.

    Raises:
        ValueError: if the parts leave anything to chance, or ``guesses`` is less than 1.

    Reference:
        Gao et al., "Self Speculative Decoding for Diffusion Large Language Models", arXiv 2510.04147.
    """

    guesses: int = 4
    order: Order = field(default_factory=Confidence)
    proposal: Proposal = field(default_factory=Proposal)
    window: Window = field(default_factory=WholeCanvas)

    def __post_init__(self) -> None:
        if self.guesses < 1:
            raise ValueError(f"guesses must be 1 or more; got {self.guesses}")
        if self.proposal.temperature != 0.0 or isinstance(self.order, Stochastic):
            raise ValueError(
                "guesses are only checked against greedy steps: use a proposal of temperature 0 and an order without "
                "noise; or decode step by step with UnmaskingSampler(PerStep(1), ...)"
            )
        if isinstance(self.order, BlindOrder):
            raise ValueError(f"{self.order} doesn't ask the model, so it has no guesses; use order=Confidence()")
        if self.window.width is not None:
            raise ValueError("guesses need a fixed window; use WholeCanvas() or Blocks(size) instead of a sliding one")

    @torch.no_grad()
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """See `Sampler.iterate`."""
        fillable = process.is_masked(tokens)
        stops = [part.stop for part in plan(self.window, None, fillable)]
        run = _Run(
            as_denoiser(model),
            process,
            RowRandom.from_seed(seed, len(tokens), tokens.device),
            left_padding(tokens, model_kwargs.get("attention_mask")),
            fillable,
            torch.tensor(stops, device=tokens.device),
            model_kwargs,
        )
        self.window.check_padding(run.offset)
        nothing = tokens[:, :0]
        guesses = Guesses(nothing, nothing, nothing.bool())
        canvas, calls = tokens.clone(), torch.zeros_like(tokens[:, 0])
        while bool((waiting := process.is_masked(canvas).any(1)).any()):
            states = _states(canvas, guesses)
            if self.window.stop_token_id is not None:
                stop = self.window.stop_token_id
                states = torch.stack([run.stop(canvas, state, stop) for state in states.unbind(1)], 1)
            after, confidence, guesses = self._call(run, states, guesses)
            if self.window.stop_token_id is not None:
                after = run.stop(canvas, after, self.window.stop_token_id)
            calls = calls + waiting
            changed = after != canvas
            canvas = after
            yield Step(canvas, changed, confidence, calls)

    def _call(self, run: "_Run", states: Tensor, guesses: Guesses) -> tuple[Tensor, Tensor, Guesses]:
        """The canvas after all steps that one call settles, its confidences, and the next guesses."""
        rows, width, length = states.shape
        proposed = run.propose(self.proposal, states)
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


@dataclass(frozen=True)
class _Run:
    """What a run works with."""

    denoiser: Denoiser
    process: MaskingProcess
    random: RowRandom
    offset: Tensor
    fillable: Tensor
    stops: Tensor
    model_kwargs: dict[str, Any]

    def propose(self, proposal: Proposal, states: Tensor) -> Proposed:
        """Tokens for the open window of each state (B, S, L), as a batch of B * S."""
        width, length = states.shape[1:]
        tokens = states.flatten(0, 1)
        masked = self.process.is_masked(tokens)
        window = self.window(masked)
        fillable = self.fillable.repeat_interleave(width, 0)
        open_now = masked & (torch.arange(length, device=tokens.device) < self.stops[window][:, None])
        positions, valid = first_true(open_now, int(open_now.sum(1).max()))
        offset = self.offset.repeat_interleave(width, 0)
        candidates = Candidates(positions, valid, tokens, offset, self.process.mask_token_id)
        conditioning = {}
        if self.process.time_conditioned:  # the time of a step of one token, as `Progress.grid` tells it
            starts = torch.cat((self.stops.new_zeros(1), self.stops[:-1]))
            columns = torch.arange(length, device=tokens.device)
            inside = (columns >= starts[window][:, None]) & (columns < self.stops[window][:, None])
            initial = (fillable & inside).sum(1).clamp(min=1)
            conditioning = self.process.conditioning(open_now.sum(1).double() / initial)
        arguments = {
            name: value.repeat_interleave(width, 0) if isinstance(value, Tensor) else value
            for name, value in self.model_kwargs.items()
        }
        logits = self.denoiser.logits(tokens, positions, **conditioning, **arguments)
        return proposal(logits, candidates, random=self.random)

    def window(self, masked: Tensor) -> Tensor:
        """Index of the window that each state is in, that of its first mask; (B * S,) int64."""
        first = masked.int().argmax(1)
        return torch.searchsorted(self.stops, first, right=True).clamp(max=len(self.stops) - 1)

    def stop(self, before: Tensor, after: Tensor, token: int) -> Tensor:
        """Fill what is left of the rows that have just finished a window with the stop token in it."""
        masked = self.process.is_masked(after)
        window = self.window(self.process.is_masked(before))
        left = self.window(masked)
        columns = torch.arange(after.shape[1], device=after.device)
        starts = torch.cat((self.stops.new_zeros(1), self.stops[:-1]))
        inside = (columns >= starts[window][:, None]) & (columns < self.stops[window][:, None])
        found = (left > window) & ((after == token) & self.fillable & inside).any(1)
        return after.masked_fill(masked & found[:, None], token)


def _states(canvas: Tensor, guesses: Guesses) -> Tensor:
    """The canvas with 0, 1, ..., J guesses written, (B, J + 1, L)."""
    states = [canvas]
    for position, token, valid in zip(*(part.unbind(1) for part in guesses), strict=True):
        state, column = states[-1], position[:, None]
        states.append(state.scatter(1, column, torch.where(valid[:, None], token[:, None], state.gather(1, column))))
    return torch.stack(states, 1)
