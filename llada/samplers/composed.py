"""What all samplers that are put together of parts have in common: the parts, and the loop over windows.

Windows are decoded one after the other. When a window is finished, rows that hold a stop token are filled.

Shapes: B rows, L columns of the canvas.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import as_denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.alignment import align
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.from_state import StateSampler
from llada.samplers.guidance import Guidance
from llada.samplers.layout import Span, first_column, own_begins, plan
from llada.samplers.length.growth import Growth
from llada.samplers.part import Part, check_parts
from llada.samplers.propose import Proposal, check_answers
from llada.samplers.run import Run
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds, fill_rows, is_stop, token_ids
from llada.samplers.window import WholeCanvas, Window, stops_within


@dataclass(frozen=True)
class ComposedSampler(StateSampler):
    """A sampler of parts. A subclass says how the open positions of one window are filled.

    Args:
        proposal: how a token is drawn.
        window: where a step may write.
        guidance: classifier-free guidance.
        cache: what is kept between steps.
        adjustments: constraints and memories that edit the logits, applied in this order.

    Raises:
        ValueError: if the parts don't fit together.
    """

    growing: ClassVar[bool] = True
    """Whether masks may be appended between windows."""
    proposal: Proposal = field(default_factory=Proposal, kw_only=True)
    window: Window = field(default_factory=WholeCanvas, kw_only=True)
    guidance: Guidance = field(default_factory=Guidance, kw_only=True)
    cache: CachePolicy = field(default_factory=NoCache, kw_only=True)
    adjustments: tuple[Adjustment, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        parts = [getattr(self, each.name) for each in fields(self) if each.name != "adjustments"]
        check_parts(self, [*parts, *self.adjustments])

    @property
    def steps(self) -> int | None:
        """Steps for the whole canvas, or None if it goes on until no position is open."""
        return None

    @override
    def stopping(self, stop_token_ids: TokenIds) -> Self:
        return replace(self, window=self.window.stopping(stop_token_ids))

    def check_growing(self) -> None:
        """Whether all parts can follow a canvas that grows.

        Raises:
            ValueError: if one can't.
        """
        if not self.growing or getattr(self.window, "block_length", None) is None:
            raise ValueError(
                f"{type(self).__name__} with {type(self.window).__name__} can't follow a canvas that grows block by "
                "block; give UnmaskingSampler or EditingSampler with window=Blocks(block_length), or a preset with "
                "block_length"
            )
        for part in self._remembering():
            raise ValueError(
                f"{type(part).__name__} looks at the whole canvas before decoding or remembers its columns, so it "
                "can't follow one that grows; leave it out, or fix the length"
            )

    def _remembering(self) -> list[Part]:
        """The parts that begin anew with every canvas."""
        return [rule for rule in self.adjustments if type(rule).start is not Adjustment.start]

    @override
    def with_adjustments(self, *adjustments: Adjustment) -> Self:
        return replace(self, adjustments=(*self.adjustments, *adjustments))

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        wider = align(state.tokens, model_kwargs.get("attention_mask"), self.window.from_first)
        if wider is None:
            yield from self._decode(model, state, self._spans(state), model_kwargs)
            return
        if self.cache.counts_columns:
            raise ValueError(
                f"{type(self.cache).__name__} counts the columns of a canvas, so that it can't begin blocks from the "
                "start of rows whose padding differs by other than multiples of their length; pad by those, decode the "
                "rows one by one, or use another cache"
            )
        sampler = replace(self, proposal=self.proposal.moved(wider.move))
        model_kwargs = wider.kwargs(model_kwargs)
        state = wider.state(state, model_kwargs["attention_mask"])
        for step in sampler._decode(model, state, sampler._spans(state), model_kwargs):
            yield wider.back(step)

    @torch.no_grad()
    def grow(self, growth: Growth, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """The loop on a canvas to which masks are appended until its rows have ended.

        Args:
            growth: how long it becomes.
            model: whatever `llada.denoiser.as_denoiser` takes.
            state: before the first step.
            model_kwargs: for the model.
        """
        yield from self._decode(model, state, self._spans(growth.longest(state)), model_kwargs, growth)

    def _decode(
        self, model: Any, state: State, spans: list[Span], model_kwargs: dict[str, Any], growth: Growth | None = None
    ) -> Iterator[Step]:
        started = self._started()
        run = started.run(model, state, model_kwargs)
        for index, span in enumerate(spans):
            if growth is not None:
                if growth.is_over(state):
                    return
                run, state, shown = growth.reach(run, state, spans, index)
                yield shown
            # Counted from the end, so that rows that begin later have the same random numbers from there on.
            streams = state.random.fold_in(len(spans) - index)
            run.cache.begin_window(span.start, span.stop)
            after = yield from started._fill(run, span, enter(state, span, streams), streams)
            check_answers(after)
            state = replace(after, random=state.random)
            step = stop_rows(state, self.window, span)
            if step is not None:
                state = replace(state, tokens=step.tokens, open=state.open & ~step.changed)
                yield step

    def run(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Run:
        """What asks the model about a canvas.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            state: before the first step.
            model_kwargs: for the model.

        Raises:
            ValueError: if the canvas or the model doesn't fit a part.
        """
        adjustments = tuple(rule.start(state, self.proposal.suppress_tokens) for rule in self.adjustments)
        writable = self._writable(state)
        first = first_column(writable).repeat(self.guidance.branches)
        cache = self.cache.open(as_denoiser(model), first, state.tokens.shape[1], model_kwargs)
        if self.cache.windowed:
            cache.begin_rows(own_begins(self.window, writable) * self.guidance.branches)
        self.window.check_padding(state.offset)
        assert state.process.mask_token_id is not None
        mask = model_kwargs.get("attention_mask")
        guided = self.guidance(cache, state.given, state.process.mask_token_id, mask)
        return Run(guided, cache, adjustments, self.proposal, model_kwargs, self.guidance)

    @abstractmethod
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        """Write the open positions of a window.

        Args:
            run: asks the model.
            span: the columns; those to the left are finished.
            state: before the first step of the window.
            random: random streams of the window.

        Returns:
            The state after its last step.
        """

    def _spans(self, state: State) -> list[Span]:
        """The columns that are finished one after the other."""
        return plan(self.window, self.steps, self._writable(state))

    def _writable(self, state: State) -> Tensor:
        """The positions whose windows are decoded, (B, L) bool."""
        return state.open

    def _started(self) -> Self:
        """The sampler with fresh memories, where a part has any."""
        return self

    @override
    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        if process.mask_token_id is None or process.scatters:
            why = "has none" if process.mask_token_id is None else "also draws random tokens, which may be wrong later"
            raise ValueError(
                f"{type(self).__name__} writes every mask once, and {type(process).__name__} {why}; "
                "use AncestralSampler"
            )
        return super().begin(tokens, process, given, seed, model_kwargs)


def enter(state: State, span: Span, random: RowRandom) -> State:
    """The state at the beginning of a window; nothing of the windows before is remembered but the canvas."""
    return replace(
        state,
        start=span.start,
        stop=span.stop,
        num_steps=span.num_steps,
        initial=state.open[:, : span.stop].sum(1),
        window_random=random.fold_in(-1),
        confidence=torch.full_like(state.confidence, torch.nan),
    )


def stop_rows(state: State, window: Window, span: Span) -> Step | None:
    """The step that fills the rows that have written a stop token into a finished window; None if there is none."""
    stops = token_ids(window.stop_token_ids)
    if not stops or stops_within(window):
        return None
    found = is_stop(state.tokens, stops) & ~state.given
    tokens, filled = fill_rows(state.tokens, state.open, found[:, span.start : span.stop].any(1), stops)
    nothing = torch.full_like(state.confidence, torch.nan)
    return Step(tokens, filled, nothing, state.calls, state.open & ~filled) if bool(filled.any()) else None
