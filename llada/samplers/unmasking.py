"""The loop behind masked-diffusion decoding: run the model, propose, rank, write, until no position is open.

A step from time t to s goes back through the process,

    p(x_s = v | x_t = mask) = (alpha_s - alpha_t) / (1 - alpha_t) xhat(v),     and what is written stays as it is.

Published methods replace the coin in front of xhat by a rule of their own: which position comes first (`Order`), how
many a step writes (`Amount`), and where it may (`Window`). They also differ in how a token is drawn (`Proposal`), how
the model is guided (`Guidance`, `Adjustment`), what of it is kept between steps (`CachePolicy`), and how time runs and
whether tokens are taken back (`Rates`). Each is an object that is swapped alone, a function of the step's `State`.

Shapes: B rows, L columns of the canvas, M candidates per row in a step, V vocabulary.
"""

import copy
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom
from llada.samplers.amount.amount import Amount, most_in_a_step
from llada.samplers.amount.quota import Quota
from llada.samplers.composed import ComposedSampler
from llada.samplers.constraints.joint import agree
from llada.samplers.counts import Counts
from llada.samplers.layout import Span, first_true, plan
from llada.samplers.likelihood import ScoringSampler, check_unread, proposal_gap
from llada.samplers.order import Confidence, Order
from llada.samplers.part import Part, with_inner
from llada.samplers.propose import Proposal, check_answers
from llada.samplers.rates.rates import Ancestral, Rates
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import ended, fill_rows, token_ids
from llada.samplers.window import Window, stops_within

_ORDER, _DRAW, _REMASK, _AGREE = range(4)  # what a step draws random numbers for


@dataclass(frozen=True)
class UnmaskingSampler(ComposedSampler, ScoringSampler):
    """Fills the masks of a canvas by a composition of parts.

    Args:
        amount: how many positions a step writes.
        order: which positions come first.
        rates: how time runs, and whether tokens are taken back.
        proposal: how a token is drawn.
        window: where a step may write.
        guidance: classifier-free guidance.
        cache: what is kept between steps.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if the parts don't fit together.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Quota, UnmaskingSampler
        >>> favourite = lambda tokens: torch.eye(4)[(tokens * 0 + 2)]
        >>> canvas = torch.tensor([[0, 3, 3]])
        >>> UnmaskingSampler(Quota(steps=2))(favourite, canvas, MaskingProcess(mask_token_id=3)).tokens
        tensor([[0, 2, 2]])
    """

    amount: Amount = field(default_factory=Quota)
    order: Order = field(default_factory=Confidence)
    rates: Rates = field(default_factory=Ancestral, kw_only=True)

    @property
    @override
    def is_final(self) -> bool:
        return not self.rates.remasks

    @property
    @override
    def steps(self) -> int | None:
        return self.amount.steps

    @property
    @override
    def likelihood_gap(self) -> str | None:
        if self.rates.remasks:
            return f"{type(self.rates).__name__} takes tokens back"
        for part in self._choosers():
            if part.reads_drawn:
                name = type(part).__name__
                return (
                    f"{name} may choose positions by tokens that are drawn and then not written; use an order such as "
                    f"TopProb or Margin, or, if {name} is your own and doesn't, say reads_drawn = False in it"
                )
        joint = [type(rule).__name__ for rule in self.adjustments if rule.joint]
        if joint and (self.steps is not None or most_in_a_step(self.amount) != 1):
            return f"{joint[0]} draws tokens of one step again until they agree; use amount=PerStep(1)"
        return proposal_gap(self.proposal)

    @property
    @override
    def is_exact(self) -> bool:
        return not any(part.by_chance for part in self._choosers())

    @override
    def _write(self, proposal: Proposal, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        return replace(self, proposal=proposal)._steps(model, state, model_kwargs)

    def _choosers(self) -> list[Part]:
        """The parts that have a say in which positions are written, with those inside of them."""
        return with_inner([self.amount, self.order, self.rates, *self.adjustments])

    @override
    def _spans(self, state: State) -> list[Span]:
        return plan(self.window, self.steps, state.open, on_grid=self.amount.on_grid)

    @override
    def _remembering(self) -> list[Part]:
        kept = [self.amount] if type(self.amount).start is not Amount.start else []
        return [*super()._remembering(), *kept]

    @override
    def _started(self) -> Self:
        return replace(self, amount=self.amount.start())

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        counts = Counts(self.amount, span, state.initial.tolist(), not stops_within(self.window))
        for k in range(counts.num_steps):
            state, left, width = self._reach(state, span.stop, counts.left(k))
            if left == 0 and not self.rates.remasks:
                break
            most = counts.most(k)
            if most == 0:
                continue  # this step takes nothing in any row
            streams = random.fold_in(k)
            run.cache.begin_step(state.open, left)
            state = self._candidates(state, span.stop, width)
            state = replace(state, step=k, random=streams.fold_in(_ORDER))
            if self.amount.by_rates:
                state = replace(state, unmask=self.rates.unmask(state))
            again = None
            if self.rates.remasks:
                coins = streams.fold_in(_REMASK).uniform_at(state.all_positions)
                again = state.written & (coins < self.rates.remask(state))
            chosen = self._choose(run, state, streams, most)
            if chosen is None and again is None:
                continue
            state, step = write(state, again=again) if chosen is None else write(*chosen, again)
            if stops_within(self.window):
                state, step = stop_at_once(state, step, self.window)
            if k == 0:  # as broken weights show at once; later steps are looked at when the window is left
                check_answers(state)
            yield step
        return state

    def _reach(self, state: State, stop: int, left: int | None) -> tuple[State, int, int]:
        """Open positions of the window in each row and in the fullest one, and how many candidates it takes."""
        number = state.open[:, :stop].sum(1)
        if self.amount.looks_ahead and stop < state.open.shape[1]:
            left, width = torch.stack((number.max(), state.open.sum(1).max())).tolist()
        else:
            left = width = int(number.max()) if left is None else left
        width = width if self.window.width is None else min(width, self.window.width)
        return replace(state, left=number), left, width

    def _candidates(self, state: State, stop: int, width: int) -> State:
        columns, valid = first_true(state.open if self.amount.looks_ahead else state.open[:, :stop], width)
        return replace(state, columns=columns, valid=valid & (columns < stop))

    def _choose(
        self, run: Run, state: State, random: RowRandom, most: int | None
    ) -> tuple[State, Tensor, Tensor] | None:
        """The proposals, which are written (B, M), and which rows needed the model (B,); None if it needn't be run."""
        if state.columns.shape[1] == 0:  # nothing is open, though some may come back
            return None
        time = self.rates.time(state)
        if self.order.blind:
            state = replace(state, scores=self.order(state))
            taken = self.amount(state)
            most = int(taken.sum(1).max()) if most is None else most
            if most == 0:
                return None
            if self._may_pause:
                run.cache.begin_call(taken.any(1))
            entries, taken = first_true(taken, most)
            few = replace(
                state,
                columns=state.columns.gather(1, entries),
                valid=taken,
                scores=state.scores.gather(1, entries),
            )
            state, called = run.propose(few, time, random=random.fold_in(_DRAW)), taken.any(1)
        else:
            if self._may_pause and self._counted:  # the counts don't depend on the scores
                asking = self.amount(replace(state, scores=state.positions.double())).any(1)
                run.cache.begin_call(asking)
                state = replace(state, valid=state.valid & asking[:, None])
            state = run.propose(state, time, random=random.fold_in(_DRAW))
            state = state.scored(self.order(state))
            taken = self._asked(state)
            # Where counts follow from numbers, a row that takes nothing would alone have skipped the step.
            called = (taken if self._counted else state.valid).any(1)
        return (*self._agree(run, state, taken, most, random.fold_in(_AGREE)), called)

    def _asked(self, state: State) -> Tensor:
        """What the amount takes, (B, M) bool; where a text is scored, it and the order have to keep their word."""
        if state.log_prob is None:
            return self.amount(state)
        check_unread(self.order, state, state.scores)
        before = copy.deepcopy(self.amount)
        taken = self.amount(state)
        check_unread(before, state, taken)
        return taken

    @property
    def _counted(self) -> bool:
        """Whether the number of tokens that a step takes is known without the model."""
        return self.amount.most(1, 0, 1) is not None

    @property
    def _may_pause(self) -> bool:
        """Whether a row may pass over a call that its neighbours need."""
        return self.amount.steps is not None and self.amount.pauses

    def _agree(
        self, run: Run, state: State, taken: Tensor, most: int | None, random: RowRandom
    ) -> tuple[State, Tensor]:
        """Bring the tokens to agree. An amount that needn't keep a count leaves those for later that would change."""
        if not any(adjustment.joint for adjustment in run.adjustments):
            return state, taken
        agreed = agree(state, taken, most, run.adjustments, self.proposal, random)
        counts = self.amount.steps is not None or self.amount.masks_left(1, 0, 1) is not None
        return agreed, taken if counts else taken & (agreed.drawn == state.drawn)


def stop_at_once(state: State, step: Step, window: Window) -> tuple[State, Step]:
    """Fill what is left of the rows that hold a stop token with nothing open before it."""
    stops = token_ids(window.stop_token_ids)
    rows = ended(state.tokens, stops, state.given, state.open)
    tokens, filled = fill_rows(state.tokens, state.open, rows, stops)
    state = replace(state, tokens=tokens, open=state.open & ~filled)
    confidence = step.confidence.masked_fill(filled, torch.nan)  # whatever was proposed there isn't written
    return state, replace(step, tokens=tokens, changed=step.changed | filled, confidence=confidence, open=state.open)
