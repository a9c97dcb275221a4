"""Ordinary decoding of an autoregressive model: from left to right, one token per call, with its keys cached.

Shapes: B rows, L columns of the canvas, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers.caches.policy import caching_backbone
from llada.samplers.caches.regions import region_logits
from llada.samplers.layout import left_padding
from llada.samplers.propose import Candidates, Proposal
from llada.samplers.sampler import Sampler, Step


@dataclass(frozen=True)
class NextToken(Sampler):
    """Fills the masks of a canvas from left to right; a token is drawn given everything to its left.

    Args:
        temperature: of the draw; 0 takes the most likely token.
        top_p: keep the smallest set of tokens with this much probability, in (0, 1]; None for all.
        top_k: keep this many tokens; None for all.
        stop_token_id: a row that writes it is finished, and what is left of it is filled with it.
        forbidden: ids that are never written.
        cached: keep keys and values, so that a call computes the new token only. False: run all tokens to the left in
            every call, which any model can.

    Raises:
        ValueError: if an option is out of its range.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    stop_token_id: int | None = None
    forbidden: tuple[int, ...] = ()
    cached: bool = True

    def __post_init__(self) -> None:
        _ = self.proposal

    @cached_property
    def proposal(self) -> Proposal:
        """How a token is drawn."""
        return Proposal(self.temperature, self.top_p, self.top_k, self.forbidden)

    @torch.no_grad()
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """See `Sampler.iterate`.

        Raises:
            ValueError: if the model isn't causal, or keys are to be cached and it can't.
        """
        denoiser = as_denoiser(model)
        reader: _Reader = (_Cached if self.cached else _Whole)(denoiser, tokens.shape)
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        offset = left_padding(tokens, model_kwargs.get("attention_mask"))
        fillable = process.is_masked(tokens)
        canvas, calls = tokens.clone(), torch.zeros_like(tokens[:, 0])
        for column in fillable.any(0).nonzero()[:, 0].tolist():
            waiting = process.is_masked(canvas)[:, column]
            if self.stop_token_id is not None and not bool(waiting.any()):
                continue
            place = torch.full_like(offset, column)
            candidates = Candidates(place, waiting[:, None], canvas, offset, process.mask_token_id)
            proposed = self.proposal(reader(canvas, place, column, model_kwargs), candidates, random=random)
            after = canvas.clone()
            after[:, column] = torch.where(waiting, proposed.tokens[:, 0], canvas[:, column])
            if self.stop_token_id is not None:
                stopped = waiting & (after[:, column] == self.stop_token_id)
                after = after.masked_fill(process.is_masked(after) & stopped[:, None], self.stop_token_id)
            confidence = torch.full(canvas.shape, torch.nan, device=canvas.device)
            confidence[:, column] = proposed.probability[:, 0].float().masked_fill(~waiting, torch.nan)
            calls = calls + waiting
            changed, canvas = after != canvas, after
            yield Step(canvas, changed, confidence, calls)


class _Reader:
    """Logits of one column of the canvas, (B, 1, V), from the tokens to its left."""

    def __init__(self, denoiser: Denoiser, shape: torch.Size) -> None:
        self.denoiser = denoiser
        backbone = getattr(denoiser, "backbone", None)
        missing = [name for name in ("causal", "shift") if not getattr(backbone, name, True)]
        if missing:
            raise ValueError(
                f"{type(backbone).__name__} has {missing[0]}=False, so what it says of a token depends on the mask "
                "in its place or on tokens behind it; decode it with UnmaskingSampler, or build it with causal=True, "
                "shift=True"
            )

    def __call__(self, canvas: Tensor, place: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class _Whole(_Reader):
    def __call__(self, canvas: Tensor, place: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor:
        return self.denoiser.logits(canvas, place, **model_kwargs)


class _Cached(_Reader):
    """The first ``written`` columns have been computed from their final tokens."""

    def __init__(self, denoiser: Denoiser, shape: torch.Size) -> None:
        super().__init__(denoiser, shape)
        self.backbone = caching_backbone(denoiser)
        self.store = self.backbone.new_cache(*shape)
        self.written = 0

    def __call__(self, canvas: Tensor, place: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor:
        region = slice(min(self.written, max(0, column - 1)), max(column, 1))
        self.written = column
        return region_logits(self.backbone, self.store, canvas, place, region, model_kwargs)
