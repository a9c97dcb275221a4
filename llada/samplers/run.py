"""The model at work on one canvas: under guidance, behind a cache, with the logits adjusted and a token drawn.

Shapes: B rows, L columns of the canvas, M candidates per row.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import Denoiser
from llada.process.columns import Edit
from llada.random import RowRandom
from llada.samplers.caches.policy import OpenCache
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.guidance import Guidance
from llada.samplers.propose import Proposal
from llada.samplers.sampler import Step
from llada.samplers.state import State, token_probability


@dataclass(frozen=True, eq=False)
class Run:
    """What asks the model.

    Args:
        denoiser: the model behind its cache, under guidance.
        cache: to be told where decoding stands.
        adjustments: of this canvas.
        proposal: how a token is drawn.
        model_kwargs: for the model.
        guidance: by which the denoiser was made of the cache.
    """

    denoiser: Denoiser
    cache: OpenCache
    adjustments: tuple[Adjustment, ...]
    proposal: Proposal
    model_kwargs: dict[str, Any]
    guidance: Guidance = field(default_factory=Guidance)

    def moved(self, edit: Edit, state: State) -> "Run":
        """What asks about the canvas after an edit; the cache keeps what stays valid.

        Args:
            edit: of the canvas.
            state: after it.

        Raises:
            ValueError: if the model needs more of the old canvas than its attention mask.
        """
        others = [
            name
            for name, value in self.model_kwargs.items()
            if name != "attention_mask" and isinstance(value, Tensor) and value.dim() > 1
        ]
        if others:
            raise ValueError(f"columns move, and nothing is known of {others[0]} at new ones; leave it out")
        kwargs = dict(self.model_kwargs)
        if "attention_mask" in kwargs or not bool(edit.real.all()):
            kwargs["attention_mask"] = edit.real
        self.cache.move(edit.repeat(1, self.guidance.branches))
        assert state.process.mask_token_id is not None
        denoiser = self.guidance(self.cache, state.given, state.process.mask_token_id, edit.real)
        return replace(self, denoiser=denoiser, model_kwargs=kwargs)

    def propose(self, state: State, time: Tensor, *, random: RowRandom) -> State:
        """Propose a token for every candidate.

        Args:
            state: the step.
            time: (B,) float64, what a time-conditioned model is told; others aren't.
            random: random streams of the rows for the draw.

        Returns:
            The state with logits and drawn tokens.
        """
        conditioning = state.process.conditioning(time)
        logits = self.denoiser.logits(state.tokens, state.columns, **conditioning, **self.model_kwargs)
        return self._proposed(logits, state, random)

    def verify(self, state: State, shadows: Tensor, time: Tensor, *, random: RowRandom) -> tuple[State, Tensor]:
        """As `propose`, and in the same call what the model thinks of the tokens that stand at the candidates' columns.

        It is told by masks beside the canvas, each in the place of one token, which they don't see.

        Args:
            state: the step.
            shadows: (B, M) bool, the columns that have such a mask.
            time: (B,) float64, what a time-conditioned model is told; others aren't.
            random: random streams of the rows for the draw.

        Returns:
            The state with logits and drawn tokens, and the probability of each token that stands there, (B, M) float32.
        """
        rows, length = state.tokens.shape
        real = self.model_kwargs.get("attention_mask")
        real = torch.ones_like(state.open) if real is None else real.bool()
        beside = torch.full_like(state.columns, state.process.mask_token_id or 0)
        places = torch.arange(length, length + state.columns.shape[1], device=beside.device).expand(rows, -1)
        kwargs = {**self.model_kwargs, "attention_mask": torch.cat([real, shadows], 1), "shadow": state.columns}
        logits = self.denoiser.logits(
            torch.cat([state.tokens, beside], 1),
            torch.cat([state.columns, places], 1),
            **state.process.conditioning(time),
            **kwargs,
        )
        logits, second = logits.chunk(2, dim=1)
        standing = state.tokens.gather(1, state.columns)
        kept = token_probability(self.proposal.suppress(second.float(), state), standing)
        return self._proposed(logits, state, random), kept

    def _proposed(self, logits: Tensor, state: State, random: RowRandom) -> State:
        """The state with the logits (B, M, V) as they are adjusted, and tokens drawn from them."""
        logits = logits.float()
        for adjustment in self.adjustments:
            logits = adjustment(logits, state)
        return self.proposal(logits, state, random=random)


def write(
    state: State, taken: Tensor | None = None, called: Tensor | None = None, again: Tensor | None = None
) -> tuple[State, Step]:
    """Write what was chosen, and mask again what is taken back.

    Args:
        state: the step, with the tokens that were drawn.
        taken: (B, M) bool, the candidates that are written; None if the model wasn't run.
        called: (B,) bool, the rows that needed the model.
        again: (B, L) bool, the written tokens that are masked again.

    Returns:
        The state after the step, and what viewers see of it.
    """
    tokens, still_open, calls = state.tokens, state.open, state.calls
    shown = torch.full(tokens.shape, torch.nan, device=tokens.device)
    log_prob: Tensor | None = None
    changed = torch.zeros_like(still_open)
    if taken is not None and called is not None:
        columns = state.columns
        tokens = tokens.scatter(1, columns, torch.where(taken, state.drawn, tokens.gather(1, columns)))
        changed = changed.scatter(1, columns, taken)
        still_open = still_open & ~changed
        shown = shown.scatter(1, columns, state.probability.detach().masked_fill(~state.valid, torch.nan))
        calls = calls + called
        if state.log_prob is not None:
            log_prob = torch.zeros_like(shown, dtype=torch.float64)
            log_prob = log_prob.scatter(1, columns, torch.where(taken, state.log_prob, 0.0))
    if again is not None and state.process.mask_token_id is not None:
        tokens, still_open = tokens.masked_fill(again, state.process.mask_token_id), still_open | again
        changed = changed | again
    confidence = torch.where(changed, shown if again is None else _drawn_with(state, shown), state.confidence)
    after = replace(state, tokens=tokens, open=still_open, calls=calls, confidence=confidence)
    return after, Step(tokens, changed, shown, calls, still_open, log_prob)


def _drawn_with(state: State, shown: Tensor) -> Tensor:
    """(B, L), the probability under the law that the tokens were drawn from, where any were proposed."""
    if state.columns.shape[1] == 0 or state.drawn.shape != state.columns.shape:
        return shown
    law = token_probability(state.filtered.detach().float(), state.drawn).masked_fill(~state.valid, torch.nan)
    return torch.full_like(shown, torch.nan).scatter(1, state.columns, law)
