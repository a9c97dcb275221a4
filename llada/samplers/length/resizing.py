"""Decoding in which rows change their lengths: one call for all rows in each step, and every row at its own place.

In each step a row writes what the sampler's order and amount choose in its block, or still waits for its length; then
the policy says which columns come and go. A row is in its k-th step when its neighbours are, so that their random
numbers are the same as alone. Blocks count from a row's first open position; one is left when nothing in it is open.

Shapes: B rows, L columns of the canvas, M columns that the model is asked about, R inputs of a call.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_built
from llada.process import Process
from llada.process.columns import Edit
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.from_state import StateSampler
from llada.samplers.layout import first_true
from llada.samplers.length.policy import Asked, Change, LengthPolicy, Obeyable
from llada.samplers.length.room import check_ending, check_room
from llada.samplers.propose import check_answers
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds, fill_rows, is_stop, token_ids
from llada.samplers.unmasking import UnmaskingSampler

_DRAW, _ORDER = 1, 0


@dataclass(frozen=True)
class ResizingSampler(StateSampler):
    """Fills the masks of a canvas, and changes the lengths of its rows on the way.

    Args:
        sampler: which positions are written, and how; with ``window=Blocks(block_length)`` or the whole canvas, an
            amount without ``steps`` such as `Threshold`, and a cache that each row may use at its own place
            (`NoCache`, `PrefixCache`).
        length: when columns come and go.
        stop_token_ids: tokens that end a row, one or several. Behind a finished block that holds one, what is open is
            filled with the first, without calls.
        max_new_tokens: most tokens that a row may have beside those that are given.

    Raises:
        ValueError: if no stop token is named, or a part can't follow columns that move.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Daedal, ResizingSampler, Threshold, UnmaskingSampler
        >>> words = torch.tensor([1] * 6 + [2] * 99)  # what the model would write: the text ends in column 6
        >>> model = lambda tokens: 9.0 * torch.eye(4)[words[: tokens.shape[1]]][None]
        >>> decode, policy = UnmaskingSampler(Threshold(0.9)), Daedal(expand_by=4, end_tokens=2)
        >>> sampler = ResizingSampler(decode, policy, stop_token_ids=2, max_new_tokens=16)
        >>> sampler(model, torch.tensor([[0, 3, 3]]), MaskingProcess(3)).tokens  # from two masks to as many as it takes
        tensor([[0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]])
    """

    sampler: UnmaskingSampler
    length: LengthPolicy
    stop_token_ids: TokenIds
    max_new_tokens: int

    def __post_init__(self) -> None:
        check_built("sampler", self.sampler)
        check_ending(self.stop_token_ids, self.max_new_tokens)
        check_resizable(self.sampler, self.length)
        self.length.check(self)

    @property
    @override
    def is_final(self) -> bool:
        return self.length.is_final

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "lengths change while it decodes, so that a text can come about in several ways"

    @override
    def with_adjustments(self, *adjustments: Adjustment) -> Self:
        return replace(self, sampler=self.sampler.with_adjustments(*adjustments))

    @override
    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        return self.sampler.begin(tokens, process, given, seed, model_kwargs)

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """As in `StateSampler`.

        Raises:
            ValueError: if the longest row is too long for the model.
        """
        run = self.sampler.run(model, state, model_kwargs)
        mask = model_kwargs.get("attention_mask")
        real = torch.ones_like(state.open) if mask is None else mask.bool()
        longest = int((state.offset[:, 0] + (state.given & real).sum(1)).max()) + self.max_new_tokens
        check_room(model, longest, self.max_new_tokens)
        waiting = state.open.any(1) if self.length.prepares else torch.zeros_like(state.open[:, 0])
        rows = Rows(state, real, waiting, _first(state.open), torch.ones_like(waiting))
        nothing = torch.full_like(state.confidence, torch.nan)
        yield Step(state.tokens, torch.zeros_like(real), nothing, state.calls, state.open, edit=Edit.of(real))
        k = 0
        while bool(rows.state.open.any()):
            asked = self._ask(run, rows, k)
            check_answers(asked.state)
            run, rows, step = self._settle(run, rows, asked, self.length(asked))
            yield step
            k += 1

    def _ask(self, run: Run, rows: "Rows", k: int) -> Asked:
        """Run the model, propose, and choose what is written."""
        state, inner = rows.state, self.sampler
        streams, active, inside = state.random.fold_in(k), state.open.any(1), rows.inside(self._size)
        free = state.open & inside & ~rows.waiting[:, None]
        watched = self.length.watched(state, rows.real) & active[:, None]
        columns, valid = first_true(free | watched, int((free | watched).sum(1).max()))
        written = valid & free.gather(1, columns)
        state = replace(
            state,
            step=k,
            left=(state.open & inside).sum(1),
            initial=(inside & rows.real & ~state.given).sum(1),
            columns=columns,
            valid=written,
            random=streams.fold_in(_ORDER),
        )
        branches = inner.guidance.branches
        width = state.tokens.shape[1]
        starts = rows.starts.clamp(max=width - 1)  # that of a finished row lies anywhere
        ends = (starts + self._size).clamp(max=width)
        begun = rows.begun | rows.waiting
        run.cache.begin_windows(*(part.tolist() * branches for part in (starts, ends, begun)))
        room = self.max_new_tokens - (rows.real & ~state.given).sum(1)
        obeyable = replace(run, adjustments=(*run.adjustments, Obeyable(self.length, room)))
        state = obeyable.propose(state, inner.rates.time(state), random=streams.fold_in(_DRAW))
        state = state.scored(inner.order(state))
        taken = inner.amount(state) & written
        state = replace(state, random=rows.state.random)
        return Asked(
            state,
            taken,
            valid & watched.gather(1, columns),
            rows.real,
            active,
            rows.waiting,
            self.max_new_tokens,
            token_ids(self.stop_token_ids),
        )

    def _settle(self, run: Run, rows: "Rows", asked: Asked, change: Change) -> tuple[Run, "Rows", Step]:
        """Write, move the columns, and leave the blocks that are finished."""
        before, starts = asked.state, rows.starts
        state, step = write(before, asked.taken, asked.active, change.again)
        real, edit, stops = rows.real, None, token_ids(self.stop_token_ids)
        if bool((change.insert > 0).any() | change.delete.any()):
            edit = Edit.of(real, change.delete, change.insert)
            state = state.moved(edit, stops[0])
            tokens, ended = fill_rows(state.tokens, edit.inserted, change.ended, stops)
            state = replace(state, tokens=tokens, open=state.open & ~ended)
            run, real = run.moved(edit, state), edit.real
            changed, shown = edit(step.changed, True, False), edit(step.confidence, torch.nan)
            step = replace(step, changed=changed, confidence=shown, edit=edit)
        starts = starts + (_first(state.open) - starts).clamp(min=0).div(self._size, rounding_mode="floor") * self._size
        columns = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        finished = (columns < starts[:, None]) & ~state.given  # the blocks that nothing is open in any more
        tokens, filled = fill_rows(state.tokens, state.open, (is_stop(state.tokens, stops) & finished).any(1), stops)
        state = replace(state, tokens=tokens, open=state.open & ~filled)
        step = replace(step, tokens=tokens, open=state.open, changed=step.changed | filled)
        return run, Rows(state, real, change.waiting, starts, starts != rows.starts), step

    @property
    def _size(self) -> int:
        """Columns of a block; more than any canvas has if there are no blocks."""
        return getattr(self.sampler.window, "block_length", torch.iinfo(torch.int32).max)


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows stand.

    Attributes:
        state: the canvas.
        real: (B, L) bool, true for everything but padding.
        waiting: (B,) bool, rows that write nothing yet.
        starts: (B,) int64, the first column of each row's block.
        begun: (B,) bool, whether it is opened now.
    """

    state: State
    real: Tensor
    waiting: Tensor
    starts: Tensor
    begun: Tensor

    def inside(self, size: int) -> Tensor:
        """The columns of each row's block, (B, L) bool."""
        columns = torch.arange(self.real.shape[1], device=self.real.device)
        return (columns >= self.starts[:, None]) & (columns < (self.starts + size)[:, None])


def _first(still_open: Tensor) -> Tensor:
    """The first open column of each row, (B,) int64; the number of columns where there is none."""
    return torch.where(still_open.any(1), still_open.int().argmax(1), still_open.shape[1])


def check_resizable(sampler: UnmaskingSampler, length: LengthPolicy) -> None:
    """Whether all parts of a sampler can follow columns that move.

    Args:
        sampler: that writes.
        length: that moves.

    Raises:
        ValueError: if one can't.
    """
    name, fix = type(sampler).__name__, "use fast_dllm, or UnmaskingSampler(Threshold(0.9), window=Blocks(32))"
    if not isinstance(sampler, UnmaskingSampler):
        raise ValueError(f"{name} can't follow columns that move; {fix}")
    for part in sampler._remembering():
        raise ValueError(f"{type(part).__name__} looks at the canvas before decoding or remembers columns; {fix}")
    if sampler.amount.steps is not None:
        raise ValueError(f"{type(sampler.amount).__name__} shares steps among masks whose number changes; {fix}")
    if sampler.rates.remasks or sampler.amount.by_rates:
        raise ValueError(f"{type(sampler.rates).__name__} needs a number of masks that doesn't change; {fix}")
    if sampler.order.blind or any(rule.joint for rule in sampler.adjustments):
        raise ValueError(f"{type(sampler.order).__name__} plans places beforehand, and they move; {fix}")
    if sampler.window.width is not None:
        raise ValueError(f"{type(sampler.window).__name__} has no blocks that end; {fix}")
    if not sampler.cache.ragged:
        raise ValueError(f"{type(sampler.cache).__name__} wants all rows in one window; use NoCache() or PrefixCache()")
    if length.looks_everywhere and not sampler.cache.computes_the_end:
        raise ValueError(
            f"{type(length).__name__} looks at the end of rows, which {type(sampler.cache).__name__} doesn't compute; "
            "use NoCache() or PrefixCache()"
        )
