"""Ordinary decoding of an autoregressive model: from left to right, one token per call, with its keys cached.

Shapes: B rows, L columns of the canvas, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.rows import left_padding
from llada.samplers.caches.partial_pass import region_logits
from llada.samplers.caches.policy import caching_backbone
from llada.samplers.likelihood import ScoringSampler, proposal_gap
from llada.samplers.propose import Proposal, check_answers
from llada.samplers.run import write
from llada.samplers.sampler import Step
from llada.samplers.sequential import SequentialSampler
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds, fill_rows, is_stop, token_ids


@dataclass(frozen=True)
class NextToken(SequentialSampler, ScoringSampler):  # type: ignore[override] # proposal
    """Writes the open positions of a canvas from left to right; a token is drawn given everything to its left.

    Args:
        temperature: of the draw; 0 takes the most likely token.
        top_p: keep the smallest set of tokens with at least this much probability, in (0, 1]; None for all.
        top_k: keep this many tokens; None for all.
        stop_token_ids: a row that writes one of these is finished, and what is open in it is filled with the first of
            them.
        suppress_tokens: ids that are never written.
        cached: keep keys and values, so that a call computes the new token only. False: run all tokens to the left in
            every call, which any model can.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import NextToken
        >>> model = BidirectionalTransformer(9, 8, 1, 2, causal=True, shift=True)
        >>> NextToken()(model, torch.tensor([[1, 8, 8, 8]]), MaskingProcess(8)).calls
        tensor([3])
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    stop_token_ids: TokenIds = None
    suppress_tokens: tuple[int, ...] = ()
    cached: bool = True

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """As in `StateSampler`.

        Raises:
            ValueError: if the model isn't causal, or keys are to be cached and it can't.
        """
        yield from self._write(self.proposal, model, state, model_kwargs)

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return proposal_gap(self.proposal)

    @override
    def _write(self, proposal: Proposal, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        reader: _Reader = (_Cached if self.cached else _Whole)(as_denoiser(model), state.tokens.shape)
        stops = token_ids(self.stop_token_ids)
        places = state.open.any(0).nonzero()[:, 0].tolist()
        for column in places:
            waiting = state.open[:, column]
            if stops and not bool(waiting.any()):
                continue
            columns = torch.full_like(state.offset, column)
            state = replace(state, columns=columns, valid=waiting[:, None])
            state = proposal(reader(state.tokens, columns, column, model_kwargs), state, random=state.random)
            state, step = write(state, waiting[:, None], waiting)
            if stops or column == places[-1]:
                check_answers(state)
            if stops:
                rows = waiting & is_stop(state.tokens[:, column], stops)
                filled_tokens, filled = fill_rows(state.tokens, state.open, rows, stops)
                state = replace(state, tokens=filled_tokens, open=state.open & ~filled)
                step = replace(step, tokens=filled_tokens, changed=step.changed | filled, open=state.open)
            yield step


class _Reader(ABC):
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

    @abstractmethod
    def __call__(self, canvas: Tensor, where: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor: ...


class _Whole(_Reader):
    @override
    def __call__(self, canvas: Tensor, where: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor:
        return self.denoiser.logits(canvas, where, **model_kwargs)


class _Cached(_Reader):
    """The first ``written`` columns have been computed from their final tokens."""

    def __init__(self, denoiser: Denoiser, shape: torch.Size) -> None:
        super().__init__(denoiser, shape)
        self.store = caching_backbone(denoiser).new_cache(*shape)
        self.written = 0
        self.starts: list[int] | None = None  # where rows begin, whose first tokens are read at themselves

    @override
    def __call__(self, canvas: Tensor, where: Tensor, column: int, model_kwargs: dict[str, Any]) -> Tensor:
        if self.starts is None:
            self.starts = left_padding(canvas, model_kwargs.get("attention_mask"))[:, 0].tolist()
        region = slice(min(self.written, max(0, column - 1)), column + (column in self.starts))
        self.written = column
        return region_logits(self.denoiser, self.store, canvas, where, region, model_kwargs)
