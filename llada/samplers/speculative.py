"""Self-speculative decoding: several steps of greedy decoding per model call, with the same result.

The model's favourites of one canvas are good guesses of its next steps. So a call runs the canvas together with copies
in which the first 1, 2, ..., J guesses are already written, as one batch. What step-by-step decoding would do is read
from the copies in turn: as long as it is the guess, the next copy is the canvas that it would have come to.

Shapes: B rows, J guesses, S = J + 1 copies per row, L columns of the canvas, M candidates of a copy.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom
from llada.samplers.amount.amount import best, ranks
from llada.samplers.composed import ComposedSampler
from llada.samplers.layout import Span, first_true, plan
from llada.samplers.order import Confidence, Order
from llada.samplers.part import with_inner
from llada.samplers.run import Run
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import fill_rows, is_stop, token_ids


class Guesses(NamedTuple):
    """What the next steps may write: columns and tokens, (B, J) int64 each, and which are guesses, (B, J) bool."""

    columns: Tensor
    tokens: Tensor
    valid: Tensor


@dataclass(frozen=True)
class SpeculativeSampler(ComposedSampler):
    """Writes what an `UnmaskingSampler` of the same parts with ``amount=PerStep(1)`` writes, in fewer calls.

    A call has ``guesses + 1`` times the rows, so it pays where the device isn't busy with one. `Step`s come once per
    call, with all tokens that it settled. Without a cache rows look ahead across the ends of blocks; with one they stop
    there, because a cache serves one block at a time.

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

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import SpeculativeSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = SpeculativeSampler(guesses=4)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).calls
        tensor([3])
    """

    growing: ClassVar[bool] = False
    guesses: int = 4
    order: Order = field(default_factory=Confidence)

    def __post_init__(self) -> None:
        if self.guesses < 1:
            raise ValueError(f"guesses must be 1 or more; got {self.guesses}")
        if self.order.blind:
            raise ValueError(f"{self.order} doesn't ask the model, so it has no guesses; use order=Confidence()")
        if self.proposal.temperature != 0.0 or any(part.by_chance for part in with_inner([self.order])):
            raise ValueError(
                "guesses are only checked against greedy steps: use a proposal of temperature 0 and an order without "
                "noise; or decode step by step with UnmaskingSampler(PerStep(1), ...)"
            )
        if self.window.width is not None:
            raise ValueError(
                "guesses need a fixed window; use WholeCanvas() or Blocks(block_length) instead of a sliding one"
            )
        if not self.cache.memoryless:
            raise ValueError(
                f"{self.cache} computes different things in different steps, and a call that looks ahead has several "
                "steps at once; use NoCache(), ExactCache(), or DualCache() or PrefixCache() that refresh at the "
                "opening of a window only"
            )
        memories = [type(adjustment).__name__ for adjustment in self.adjustments if adjustment.remembers]
        if memories:
            raise ValueError(
                f"{memories[0]} remembers every step, and a call that looks ahead runs some that never happen; "
                "decode step by step with UnmaskingSampler(PerStep(1), ...)"
            )
        super().__post_init__()

    @property
    @override
    def is_final(self) -> bool:
        return True

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it decodes greedily, so that it writes one text, which has probability 1"

    @override
    def run(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Run:
        copies = self._copies(state)
        repeated = {
            name: value.repeat_interleave(copies, 0) if isinstance(value, Tensor) else value
            for name, value in model_kwargs.items()
        }
        return super().run(model, _repeat(state, copies), repeated)

    @override
    def _spans(self, state: State) -> list[Span]:
        spans = super()._spans(state)
        if self.cache.windowed or not spans:
            return spans
        return [spans[0]._replace(stop=spans[-1].stop)]

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        inner = [each for each in plan(self.window, None, state.open) if each.stop <= span.stop]
        if not inner:
            return state
        windows, stops = _Windows(inner, state), token_ids(self.window.stop_token_ids)
        empty = state.tokens.new_zeros(len(state.tokens), self._copies(state) - 1)
        guesses = Guesses(empty, empty, empty.bool())
        while bool((waiting := state.open[:, : span.stop].any(1)).any()):
            before = state
            ahead = _written(state, guesses)
            if stops:
                ahead = [windows.stop(before, one, stops) for one in ahead]
            copies = replace(
                _repeat(state, len(ahead)),
                tokens=torch.stack([one.tokens for one in ahead], 1).flatten(0, 1),
                open=torch.stack([one.open for one in ahead], 1).flatten(0, 1),
            )
            proposed = self._propose(run, windows, copies, random)
            state, shown, guesses = self._settle(state, proposed, guesses)
            if stops:
                state = windows.stop(before, state, stops)
            state = replace(state, calls=state.calls + waiting)
            yield Step(state.tokens, before.open & ~state.open, shown, state.calls, state.open)
        return state

    def _copies(self, state: State) -> int:
        return min(self.guesses, state.tokens.shape[1]) + 1

    def _propose(self, run: Run, windows: "_Windows", copies: State, random: RowRandom) -> State:
        """Tokens and scores for the current window of each of the B * S copies."""
        inside, begun = windows.current(copies.open)
        still_open = copies.open & begun
        left = still_open.sum(1)
        columns, valid = first_true(still_open, int(left.max()))
        initial = (inside & ~copies.given).sum(1)  # what a step of one token is told the time by
        copies = replace(copies, columns=columns, valid=valid, left=left, initial=initial)
        proposed = run.propose(copies, copies.grid(), random=random)
        return proposed.scored(self.order(proposed))

    def _settle(self, state: State, proposed: State, guesses: Guesses) -> tuple[State, Tensor, Guesses]:
        """The state after all steps that one call settles, the confidences of the last, and the next guesses."""
        rows, length = state.tokens.shape
        copies = len(proposed.tokens) // rows
        taken = best(proposed)
        entry = taken.int().argmax(1, keepdim=True)
        column, token = (part.gather(1, entry).view(rows, copies) for part in (proposed.columns, proposed.drawn))
        some = taken.any(1).view(rows, copies)

        right = (column[:, :-1] == guesses.columns) & (token[:, :-1] == guesses.tokens) & some[:, :-1]
        settled = (right & guesses.valid).long().cumprod(1).sum(1, keepdim=True)  # (B, 1): the last true copy
        index = torch.arange(rows, device=state.tokens.device) * copies + settled[:, 0]
        tokens, still_open = proposed.tokens[index], proposed.open[index]
        where, written = column.gather(1, settled), some.gather(1, settled)
        tokens = tokens.scatter(1, where, torch.where(written, token.gather(1, settled), tokens.gather(1, where)))
        still_open = still_open.scatter(1, where, still_open.gather(1, where) & ~written)
        sure = proposed.probability.masked_fill(~proposed.valid, torch.nan)[index]
        shown = torch.full((rows, length), torch.nan, device=tokens.device)
        shown = shown.scatter(1, proposed.columns[index], sure)
        state = replace(state, tokens=tokens, open=still_open, broken=proposed.broken[index])
        return state, shown, self._next(proposed, taken, index, copies - 1)

    def _next(self, proposed: State, taken: Tensor, index: Tensor, number: int) -> Guesses:
        """The favourites of the last true copies, without the one that was written; ``number`` entries."""
        valid = (proposed.valid & ~taken)[index]
        rank = ranks(proposed.scores[index], valid)
        order = torch.empty_like(rank).scatter(1, rank, torch.arange(rank.shape[1], device=rank.device).expand_as(rank))
        order = order[:, :number]
        parts = (part.gather(1, order) for part in (proposed.columns[index], proposed.drawn[index], valid))
        return Guesses(*(torch.nn.functional.pad(part, (0, number - order.shape[1])) for part in parts))


class _Windows:
    """The windows over which a call may look ahead."""

    def __init__(self, spans: list[Span], state: State) -> None:
        device, self.given = state.tokens.device, state.given
        self.starts, self.stops = torch.tensor([span[:2] for span in spans], device=device).T.contiguous()
        self.columns = torch.arange(state.tokens.shape[1], device=device)

    def index(self, still_open: Tensor) -> Tensor:
        """The window of each row's first open position, (B,) int64; behind the last if there is none."""
        first = torch.where(still_open.any(1), still_open.int().argmax(1), still_open.shape[1])
        return torch.searchsorted(self.stops, first, right=True)

    def current(self, still_open: Tensor) -> tuple[Tensor, Tensor]:
        """Which columns are in the row's window, and which are before its end; (B, L) bool each."""
        index = self.index(still_open).clamp(max=len(self.stops) - 1)
        begun = self.columns < self.stops[index][:, None]
        return begun & (self.columns >= self.starts[index][:, None]), begun

    def stop(self, before: State, after: State, stops: tuple[int, ...]) -> State:
        """Fill what is open in the rows that have just finished a window with a stop token in it."""
        finished = self.index(after.open) > self.index(before.open)
        inside, _ = self.current(before.open)
        rows = finished & (is_stop(after.tokens, stops) & ~self.given & inside).any(1)
        tokens, filled = fill_rows(after.tokens, after.open, rows, stops)
        return replace(after, tokens=tokens, open=after.open & ~filled)


def _written(state: State, guesses: Guesses) -> list[State]:
    """The state with 0, 1, ..., J guesses written."""
    states = [state]
    for column, token, valid in zip(*(part.split(1, dim=1) for part in guesses), strict=True):
        tokens, still_open = states[-1].tokens, states[-1].open
        tokens = tokens.scatter(1, column, torch.where(valid, token, tokens.gather(1, column)))
        still_open = still_open.scatter(1, column, still_open.gather(1, column) & ~valid)
        states.append(replace(state, tokens=tokens, open=still_open))
    return states


def _repeat(state: State, copies: int) -> State:
    """Every row so many times, behind one another."""
    names = ("tokens", "open", "given", "offset", "broken")
    return replace(state, **{name: getattr(state, name).repeat_interleave(copies, 0) for name in names})
