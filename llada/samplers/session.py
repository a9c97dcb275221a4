"""What all samplers have in common: from a canvas and their parts to proposed tokens.

A call of a sampler is a `Session`: the canvas as it was given, the adjustments of its rows and the opened cache. For
each window it opens a `Predictor`, which runs the model under guidance, adjusts the logits and draws.

Shapes: B rows, L columns of the canvas, M candidate positions per row.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.caches.policy import CachePolicy, OpenCache, Shape, View
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.guidance import Guidance
from llada.samplers.layout import first_mask, left_padding
from llada.samplers.propose import Candidates, Proposal, Proposed
from llada.samplers.window import Window


class Parts(Protocol):
    """The parts that every sampler has."""

    @property
    def proposal(self) -> Proposal:
        """How a token is drawn."""
        ...

    @property
    def window(self) -> Window:
        """Where a step may write."""
        ...

    @property
    def guidance(self) -> Guidance:
        """Classifier-free guidance."""
        ...

    @property
    def cache(self) -> CachePolicy:
        """What is kept between steps."""
        ...

    @property
    def adjustments(self) -> tuple[Adjustment, ...]:
        """Edits of the logits, in their order."""
        ...


@dataclass(frozen=True)
class Predictor:
    """Proposals for the candidates of a step.

    Args:
        view: the model on this window, for the cache's own purposes.
        denoiser: the same under guidance.
        process: owner of the mask token and the conditioning.
        adjustments: of this run.
        proposal: how a token is drawn.
        model_kwargs: for the model.
    """

    view: View
    denoiser: Denoiser
    process: MaskingProcess
    adjustments: tuple[Adjustment, ...]
    proposal: Proposal
    model_kwargs: dict[str, Any]

    def __call__(self, candidates: Candidates, time: Tensor | None, *, random: RowRandom) -> Proposed:
        """Propose a token for every candidate.

        Args:
            candidates: (B, M) positions.
            time: (B,) float64, what a time-conditioned model is told; None for others.
            random: the rows' streams for the draw.
        """
        conditioning = {} if time is None else self.process.conditioning(time)
        arguments = {**conditioning, **self.model_kwargs}
        logits = self.denoiser.logits(candidates.tokens, candidates.positions, **arguments).float()
        for adjustment in self.adjustments:
            logits = adjustment(logits, candidates)
        return self.proposal(logits, candidates, random=random)


@dataclass(frozen=True)
class Session:
    """A canvas that is being filled.

    Args:
        parts: of the sampler.
        process: owner of the mask token.
        tokens: (B, L) int64, the canvas before the first step.
        fillable: (B, L) bool, its masks.
        offset: (B, 1) int64, the padding in front of each row.
        adjustments: the sampler's, started on this canvas.
        store: the opened cache.
        model_kwargs: for the model.
    """

    parts: Parts
    process: MaskingProcess
    tokens: Tensor
    fillable: Tensor
    offset: Tensor
    adjustments: tuple[Adjustment, ...]
    store: OpenCache
    model_kwargs: dict[str, Any]

    @classmethod
    def begin(
        cls, parts: Parts, model: Any, tokens: Tensor, process: MaskingProcess, model_kwargs: dict[str, Any]
    ) -> "Session":
        """Start a run.

        Args:
            parts: of the sampler.
            model: whatever `llada.denoiser.as_denoiser` takes.
            tokens: (B, L) int64, the canvas.
            process: owner of the mask token.
            model_kwargs: for the model.

        Raises:
            ValueError: if the canvas or the model doesn't fit a part.
        """
        fillable = process.is_masked(tokens)
        offset = left_padding(tokens, model_kwargs.get("attention_mask"))
        adjustments = tuple(
            a.start(tokens, offset, process.mask_token_id, parts.proposal.forbidden) for a in parts.adjustments
        )
        branches = parts.guidance.branches
        shape = Shape(len(tokens) * branches, tokens.shape[1], first_mask(fillable).repeat(branches))
        store = parts.cache.open(as_denoiser(model), shape, model_kwargs)
        parts.window.check_padding(offset)
        return cls(parts, process, tokens, fillable, offset, adjustments, store, model_kwargs)

    def open(self, start: int, stop: int) -> Predictor:
        """The predictor of a window, columns start to stop."""
        view = self.store.view(start, stop, self.process.mask_token_id)
        guided = self.parts.guidance(view, self.tokens, self.process, self.model_kwargs.get("attention_mask"))
        return Predictor(view, guided, self.process, self.adjustments, self.parts.proposal, self.model_kwargs)

    def candidates(self, columns: tuple[Tensor, Tensor], canvas: Tensor) -> Candidates:
        """Positions of the canvas, (B, M) columns and which of them are valid."""
        return Candidates(*columns, canvas, self.offset, self.process.mask_token_id)
