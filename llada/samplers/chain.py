"""Samplers that are a Markov chain of canvases: each step draws the next canvas given the one before.

    x_0, x_1, ..., x_K,      x_{k+1} ~ M_k(x_k, .)      in each block, from left to right

The loop over blocks and steps is here. A step may be taken of any canvas, so that others can run several chains at once
and go on from some of them (`llada.samplers.ParticleSampler`).

Shapes: B rows, L columns of the canvas, M candidates per row, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.composed import stop_rows
from llada.samplers.from_state import StateSampler
from llada.samplers.layout import Span, first_true, plan
from llada.samplers.propose import check_answers
from llada.samplers.sampler import Step
from llada.samplers.state import State, token_probability
from llada.samplers.stopping import TokenIds, token_ids
from llada.samplers.window import WholeCanvas, Window


@dataclass(frozen=True)
class ChainSampler(StateSampler):
    """Steps from canvas to canvas.

    A block is drawn while all behind it is noise still. That is what a block-causal model never sees; to others it is
    more noise than they are told of.

    Args:
        window: the whole canvas, or `Blocks` that are finished one after the other.

    Raises:
        ValueError: if the window slides.
    """

    weighs_guidance: ClassVar[bool] = False
    """Whether ``log_ratio`` of the state tells what guidance did."""
    steps: int
    window: Window = field(default_factory=WholeCanvas, kw_only=True)

    def __post_init__(self) -> None:
        if self.window.width is not None:
            raise ValueError(
                f"{type(self).__name__} draws all open positions of a window again and again, so the window can't "
                "slide; use window=Blocks(block_length)"
            )

    @override
    def stopping(self, stop_token_ids: TokenIds) -> Self:
        if isinstance(self.window, WholeCanvas):
            return self
        return replace(self, window=self.window.stopping(stop_token_ids))

    def check_process(self, process: Process) -> None:
        """Whether the chain has steps under this process.

        Raises:
            ValueError: if it hasn't.
        """
        return

    @override
    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        self.check_process(process)
        return super().begin(tokens, process, given, seed, model_kwargs)

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        denoiser, random, spans = state.process.network(model), state.random, self.spans(state)
        for index, span in enumerate(spans):
            # Counted from the end, so that rows that begin later have the same random numbers from there on.
            streams = random.fold_in(len(spans) - index)
            state = self.entered(state, span)
            for step in range(self.length(state, span)):
                state = self.at(state, step)
                state = yield from self.advance(denoiser, state, streams.fold_in(step), model_kwargs)
            check_answers(state)
            state, filled = self.left(state, span)
            if filled is not None:
                yield filled

    @abstractmethod
    def advance(
        self, denoiser: Denoiser, state: State, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Generator[Step, None, State]:
        """One step of the chain.

        Args:
            denoiser: the model, as the process reads its outputs (`Process.network`).
            state: a canvas and its candidates; ``state.step`` and ``state.num_steps`` say where in the block it is.
            random: the rows' random streams of this step.
            model_kwargs: for the model.

        Returns:
            The state after it.
        """

    def spans(self, state: State) -> list[Span]:
        """The columns that are finished one after the other, with the steps of each row.

        Args:
            state: before the first step.
        """
        self.window.check_padding(state.offset)
        return plan(self.window, self.steps, state.open)

    def entered(self, state: State, span: Span) -> State:
        """The state at the beginning of a span: its open columns are the candidates."""
        here = state.open[:, : span.stop]
        columns, valid = first_true(here, int(here.sum(1).max()))
        ratio = torch.zeros(len(columns), dtype=torch.float64, device=columns.device)
        return replace(
            state,
            columns=columns,
            valid=valid,
            start=span.start,
            stop=span.stop,
            num_steps=span.num_steps,
            log_ratio=ratio,
        )

    def length(self, state: State, span: Span) -> int:
        """Steps of the row that takes most, where anything is open in the span."""
        return max(span.shares or (0,)) if state.columns.shape[1] else 0

    def at(self, state: State, step: int) -> State:
        """The state at a step of its span; rows that are through theirs have no candidates left."""
        assert state.num_steps is not None
        active = (step < state.num_steps)[:, None]
        return replace(state, step=step, valid=state.open.gather(1, state.columns) & active)

    def left(self, state: State, span: Span) -> tuple[State, Step | None]:
        """The state behind a finished span, and the step that fills rows that have ended in it, if there are any."""
        outside = torch.arange(state.open.shape[1], device=state.open.device) >= span.stop
        state = replace(state, open=state.open & outside)
        filled = stop_rows(state, self.window, span) if token_ids(self.window.stop_token_ids) else None
        if filled is None:
            return state, None
        filled = replace(filled, rewrites=state.process.scatters)
        return replace(state, tokens=filled.tokens, open=state.open & ~filled.changed), filled


def moved(state: State, now: Tensor, logits: Tensor, log_ratio: Tensor | None = None) -> tuple[State, Step]:
    """The state with other tokens at its candidates, and what viewers see of the step.

    Args:
        state: before the step.
        now: (B, M) int64, the candidates' tokens after it.
        logits: (B, M, V), what the model said of them.
        log_ratio: (B,) float64 nats, how much likelier the step was without guidance; None: as likely.
    """
    columns, valid = state.columns, state.valid
    changed = (now != state.tokens.gather(1, columns)) & valid
    sure = token_probability(logits, now).float().masked_fill(~valid, torch.nan)
    confidence = torch.full(state.tokens.shape, torch.nan, device=sure.device).scatter_(1, columns, sure)
    tokens, calls = state.tokens.scatter(1, columns, now), state.calls + valid.any(1)
    after = replace(state, tokens=tokens, calls=calls, logits=logits)
    if log_ratio is not None:
        after = replace(after, log_ratio=state.log_ratio + log_ratio if state.log_ratio.numel() else log_ratio)
    waits = state.open & state.process.is_masked(tokens)
    written = torch.zeros_like(state.open).scatter(1, columns, changed)
    return after, Step(tokens, written, confidence, calls, waits, rewrites=state.process.scatters)
