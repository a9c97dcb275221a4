"""What a sampler is: (model, canvas, process) -> the canvas with its open positions written, step by step.

Positions that are given never change: a prompt, the text around a hole, padding. All others are open and get a token.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from llada.process import Process
from llada.process.columns import Edit
from llada.random import RowRandom
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds


@dataclass(frozen=True)
class Step:
    """The canvas after a step, and what a viewer wants to know about it.

    Attributes:
        tokens: (B, L) int64; a tensor of its own, safe to keep.
        changed: (B, L) bool, where this step wrote.
        confidence: (B, L) float32, the model's probability of the token it proposed at each position that was
            considered; NaN elsewhere.
        calls: (B,) int64, model calls that each row has needed so far.
        open: (B, L) bool, positions that still wait for a token and hold the mask; none under noise without masks.
        log_prob: (B, L) float64, nats, of the tokens that this step drew and wrote, 0 elsewhere; None where no text is
            scored.
        rewrites: whether tokens that were written may change in later steps, so that masks don't tell how far it is.
        edit: where the columns of this canvas stood in the one before; None from samplers that never move any. All
            fields are of the canvas after it.
    """

    tokens: Tensor
    changed: Tensor
    confidence: Tensor
    calls: Tensor
    open: Tensor
    log_prob: Tensor | None = None
    rewrites: bool = False
    edit: Edit | None = None

    def carried(self, given: Tensor) -> Tensor:
        """Which positions of this canvas were never open, (B, L) bool, padding included.

        Args:
            given: the same of the canvas before, (B, L'), whose length may be another.
        """
        return given if self.edit is None else self.edit(given, False, True)

    def real(self, attention_mask: Tensor) -> Tensor:
        """What isn't padding, (B, L) bool.

        Args:
            attention_mask: the same of the canvas before, (B, L').
        """
        return attention_mask if self.edit is None else self.edit.real


class Sample(NamedTuple):
    """A finished canvas.

    Attributes:
        tokens: (B, L) int64, with a token at every position.
        calls: (B,) int64, model calls that each row needed (NFE).
        generated: (B,) int64, number of positions that aren't given: those that were open at the start, unless the
            sampler changes lengths.
        given: (B, L) bool, the positions that were never open: prompts and padding.
        attention_mask: (B, L) bool, true for real tokens. Rows whose lengths have changed may be padded behind.
    """

    tokens: Tensor
    calls: Tensor
    generated: Tensor
    given: Tensor
    attention_mask: Tensor

    @property
    def tokens_per_call(self) -> Tensor:
        """(B,) float32; 0 for rows that needed no call."""
        return self.generated / self.calls.clamp(min=1)


def finish(steps: Iterable[Step], tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> Sample:
    """Take the steps to their end.

    Args:
        steps: from `Sampler.iterate`.
        tokens: (B, L) int64, the canvas before the first step.
        given: (B, L) bool, the positions that were never open, padding included.
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.

    Returns:
        The finished canvas. If there was nothing to write, a copy of the first.
    """
    ending = Ending(tokens, given, attention_mask)
    for step in steps:
        ending.see(step)
    return ending.sample


class Ending:
    """What the last of the steps seen has left; arguments as those of `finish`."""

    def __init__(self, tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> None:
        self._canvas, self._calls, self._given = tokens, tokens.new_zeros(len(tokens)), given
        self._real = torch.ones_like(given) if attention_mask is None else attention_mask.bool().to(given.device)

    def see(self, step: Step) -> None:
        """Take note of a step."""
        self._given, self._real = step.carried(self._given), step.real(self._real)
        self._canvas, self._calls = step.tokens, step.calls

    @property
    def sample(self) -> Sample:
        """The finished canvas, a copy of its own."""
        return Sample(self._canvas.clone(), self._calls, (~self._given).sum(1), self._given, self._real)


class TextLikelihood(NamedTuple):
    """What a sampler says of a finished text.

    Attributes:
        log_likelihood: (B,) float64, nats; minus infinity for a text that the sampler never writes.
        calls: (B,) int64, model calls that writing the row takes.
        generated: (B,) int64, number of tokens that were scored.
        is_exact: whether it is the log-probability itself. If not, positions are drawn at random; it is then the text's
            log-probability given them, and its mean over seeds is a lower bound of the log-probability.
    """

    log_likelihood: Tensor
    calls: Tensor
    generated: Tensor
    is_exact: bool


class Sampler(ABC):
    """Writes the open positions of a canvas."""

    @property
    def is_final(self) -> bool:
        """Whether a token that was written is never changed again, so that its text can be shown at once."""
        return False

    @property
    def left_to_right(self) -> bool:
        """Whether every token is written behind all that were written before it."""
        return False

    @property
    def likelihood_gap(self) -> str | None:
        """Why a text has no likelihood under this sampler; None if it has one (`llada.samplers.likelihood`)."""
        return f"{type(self).__name__} doesn't say how it chooses positions"

    def likelihood(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> TextLikelihood:
        """The log-probability of a finished text under this very sampler, as `llada.samplers.likelihood` computes it.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            tokens: (B, L) int64, the text.
            process: owner of the mask token and the schedule.
            given: (B, L) bool, tokens that aren't scored: the prompt. None: all are scored. Padding never is.
            seed: of positions that are drawn at random: an int, from which row i gets ``seed + i``, or (B,) integers.
            model_kwargs: for the model; ``attention_mask`` (B, L) bool marks the real tokens of padded rows.

        Raises:
            ValueError: if there is a `likelihood_gap`, or the text holds a mask.
        """
        raise ValueError(f"a text has no likelihood under this sampler: {self.likelihood_gap}")

    def with_adjustments(self, *adjustments: Any) -> Self:
        """The same sampler with more adjustments of the logits, such as constraints.

        Args:
            adjustments: `llada.samplers.Adjustment` objects, applied after its own.

        Raises:
            ValueError: if the sampler takes none, or not these.
        """
        raise ValueError(
            f"{type(self).__name__} takes no constraints; give another sampler, such as low_confidence"
            f" (got {', '.join(type(adjustment).__name__ for adjustment in adjustments)})"
        )

    def stopping(self, stop_token_ids: TokenIds) -> Self:
        """The same sampler, which may leave a row when it has written one of these tokens; others decode all.

        Args:
            stop_token_ids: the tokens that end a text.

        Raises:
            ValueError: if it has no place to stop at.
        """
        return self

    def from_draft(self) -> Self:
        """The same sampler, which edits what stands at the open positions of a canvas instead of masking it first.

        Raises:
            ValueError: if it edits nothing.
        """
        raise ValueError(
            f"{type(self).__name__} writes into masks and edits no draft; give LevenshteinSampler or EditingSampler, "
            "such as the preset llada21"
        )

    @abstractmethod
    def iterate(
        self,
        model: Any,
        tokens: Tensor,
        process: Any,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        """Yield the canvas after every step.

        History, streaming, progress and early stops are loops over this iterator.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            tokens: (B, L) int64, the canvas; not edited.
            process: owner of the mask token and the schedule.
            given: (B, L) bool, positions that are never written. None: all that don't hold the mask token.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers, one per row. A row's result depends on
                its own seed and content only.
            model_kwargs: for the model; ``attention_mask`` (B, L) bool marks the real tokens of padded rows.

        Raises:
            ValueError: if ``given`` is None and the process has no mask token.
        """

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Sample:
        """Write all open positions; arguments as in `iterate`.

        Returns:
            The finished canvas. If there was nothing to write, a copy of the input.
        """
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        attention_mask = model_kwargs.get("attention_mask")
        state = State.begin(process, tokens, given, random, attention_mask)
        ending = Ending(tokens, state.given, attention_mask)
        for step in self.iterate(model, tokens, process, given=given, seed=seed, **model_kwargs):
            ending.see(step)
        return ending.sample
