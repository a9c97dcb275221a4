"""Constraints that hold at every step: which tokens may stand at a place.

The logits of all others are minus infinity before a token is drawn, so confidences are those of the constrained
distribution. A token that is known from the start is better written into the canvas, where the model sees it at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.state import State


@dataclass(frozen=True)
class AllowLists(Adjustment):
    """Only certain tokens at certain places.

    Args:
        allowed: place -> token ids. Places count from 0 at the first real token of the row, padding left out.

    Raises:
        ValueError: if a list is empty, or a place or id is negative.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AllowLists, Quota, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(5)[tokens * 0 + 1]  # prefers token 1
        >>> sampler = UnmaskingSampler(Quota(steps=2), adjustments=(AllowLists({0: [2, 3], 2: [0]}),))
        >>> sampler(model, torch.full((1, 4), 4), MaskingProcess(4)).tokens
        tensor([[2, 1, 0, 1]])
    """

    reads_drawn: ClassVar[bool] = False
    restricts: ClassVar[bool] = True
    allowed: Mapping[int, Sequence[int]]

    def __post_init__(self) -> None:
        for place, tokens in self.allowed.items():
            if place < 0 or not tokens or min(tokens) < 0:
                raise ValueError(
                    f"places and token ids must be 0 or more, and every place needs a token; got {place}: {tokens}"
                )

    @override
    def check(self, sampler: Any) -> None:
        super().check(sampler)
        forbidden = sampler.proposal.suppress_tokens
        for place, tokens in self.allowed.items():
            if set(tokens) <= set(forbidden):
                raise ValueError(f"all tokens allowed at place {place} are forbidden by the proposal: {tokens}")

    @override
    def start(self, state: State, suppress_tokens: tuple[int, ...] = ()) -> Adjustment:
        """The lists as a table. The given tokens must fit too."""
        tokens, mask_token_id = state.tokens, state.process.mask_token_id
        for place, allowed in self.allowed.items():
            if mask_token_id in allowed:
                raise ValueError(f"the mask token {mask_token_id} is never written, so place {place} can't allow it")
            column = state.offset[:, 0] + place
            if bool((column >= tokens.shape[1]).any()):
                raise ValueError(f"place {place} is behind the end of a row of {tokens.shape[1]} columns")
            token, unknown = (part.gather(1, column[:, None]).squeeze(1) for part in (tokens, state.open))
            if not bool((unknown | torch.isin(token, torch.tensor(list(allowed), device=tokens.device))).all()):
                raise ValueError(f"the canvas has another token at place {place} than the allowed {list(allowed)}")
        return _AllowRun(self.allowed, tokens.shape[1])

    @override
    def __call__(self, logits: Tensor, state: State) -> Tensor:
        return _AllowRun(self.allowed, state.tokens.shape[1])(logits, state)


class _AllowRun(Adjustment):
    """The lists as a table, made when the size of the vocabulary is known."""

    def __init__(self, allowed: Mapping[int, Sequence[int]], length: int) -> None:
        self.allowed, self.length = allowed, length
        self.table: Tensor | None = None  # (K + 1, V) bool; the last row allows everything
        self.row = torch.empty(0)  # (L,) int64, row of the table for each place

    def __call__(self, logits: Tensor, state: State) -> Tensor:
        if self.table is None:
            self._build(logits)
        assert self.table is not None
        allowed = self.table[self.row[state.positions.clamp(min=0)]]
        return logits.masked_fill(~allowed, -torch.inf)

    def _build(self, logits: Tensor) -> None:
        vocab_size = logits.shape[-1]
        largest = max((max(tokens) for tokens in self.allowed.values()), default=0)
        if largest >= vocab_size:
            raise ValueError(f"token {largest} is outside of the model's vocabulary of {vocab_size}")
        self.table = torch.zeros(len(self.allowed) + 1, vocab_size, dtype=torch.bool, device=logits.device)
        self.table[-1] = True
        self.row = torch.full((self.length,), len(self.allowed), device=logits.device)
        for index, (place, tokens) in enumerate(self.allowed.items()):
            self.table[index, list(tokens)] = True
            self.row[place] = index
