"""An answer of unknown length: masks are appended until it has ended.

Shapes: B rows, L columns of the canvas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_fields
from llada.process import Process
from llada.process.columns import Edit
from llada.random import RowRandom
from llada.samplers.composed import ComposedSampler
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.length.growth import Growth
from llada.samplers.length.room import check_ending, check_room
from llada.samplers.sampler import Sampler, Step
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds, is_stop, token_ids


@dataclass(frozen=True)
class UntilStop(Sampler):
    """Appends masks behind a canvas until every row has written a stop token.

    The canvas ends with the first masks, at least one. Where the sampler has blocks, one is appended whenever one is
    finished, so that as many masks as at first are in view. For a block-causal model, with any cache that is exact for
    it, the result is that of the same sampler on the canvas with all ``max_new_tokens`` masks, whose calls compute
    less. Other models see how many masks there are, so the result is that of a model which sees no more than those: the
    longest canvas with the rest hidden. A sampler without blocks gets as many masks again as the canvas ended with,
    when all are written; from left to right that is exact, too.

    Args:
        sampler: how masks are written: with ``window=Blocks(block_length)``, `NextToken`, or one with another loop.
            Its ``steps``, if it has a number of them, are for the longest canvas.
        stop_token_ids: the tokens that end a row (EOS), one or several. What is open behind is filled with the first.
        max_new_tokens: most tokens behind the prompt, those included that are on the canvas from the start.

    Raises:
        ValueError: if no stop token is named, or the sampler can't follow a canvas that grows.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import UntilStop, low_confidence
        >>> model = lambda tokens: torch.eye(4)[tokens * 0 + 1]  # never writes the stop token 2
        >>> sampler = UntilStop(low_confidence(block_length=4), stop_token_ids=2, max_new_tokens=8)
        >>> sampler(model, torch.tensor([[0, 3, 3, 3, 3]]), MaskingProcess(3)).tokens
        tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1]])
    """

    sampler: Sampler
    stop_token_ids: TokenIds
    max_new_tokens: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_ending(self.stop_token_ids, self.max_new_tokens)
        if isinstance(self.sampler, ComposedSampler):
            self.sampler.check_growing()
        self.sampler.stopping(self.stop_token_ids)

    @property
    @override
    def is_final(self) -> bool:
        return self.sampler.is_final

    @property
    @override
    def left_to_right(self) -> bool:
        return self.sampler.left_to_right

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "its canvas grows; ask the sampler inside for the likelihood of a text that ends with its stop token"

    @override
    def with_adjustments(self, *adjustments: Adjustment) -> Self:
        return replace(self, sampler=self.sampler.with_adjustments(*adjustments))

    @override
    def iterate(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        """Arguments as in `Sampler.iterate`.

        Raises:
            ValueError: if the canvas doesn't end with a mask, or the longest is too long for the model.
        """
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        begun = State.begin(process, tokens, given, random, model_kwargs.get("attention_mask"))
        behind = int(begun.open.all(0).flip(0).cumprod(0).sum())
        if behind == 0:
            raise ValueError("every row must end with at least one mask, behind which others are appended")
        more = max(0, self.max_new_tokens - behind)
        check_room(model, tokens.shape[1] + more, self.max_new_tokens)
        sampler = self.sampler.stopping(self.stop_token_ids)
        if isinstance(sampler, ComposedSampler):
            growth = Growth(more, sampler.window, tokens.shape[1])
            return sampler.grow(growth, model, sampler.begin(tokens, process, given, seed, model_kwargs), model_kwargs)
        return self._in_portions(sampler, model, begun, behind, more, seed, model_kwargs)

    @torch.no_grad()
    def _in_portions(
        self,
        sampler: Sampler,
        model: Any,
        state: State,
        portion: int,
        more: int,
        seed: int | Tensor,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Step]:
        """Whole runs of a sampler, each on the text of those before with new masks behind it."""
        stops, new = token_ids(self.stop_token_ids), ~state.given
        mask = state.process.mask_token_id
        real = torch.ones_like(new) if (kept := model_kwargs.get("attention_mask")) is None else kept.bool()
        edit, tokens, given, calls = Edit.of(real), state.tokens, state.given, state.calls
        while True:
            yield _shown(tokens, calls, ~given, edit)
            arguments = model_kwargs if kept is None else {**model_kwargs, "attention_mask": edit.real}
            last = None
            for last in sampler.iterate(model, tokens, state.process, given=given, seed=seed, **arguments):
                yield replace(last, calls=calls + last.calls)
            if last is not None:
                tokens, calls = last.tokens, calls + last.calls
            ended = (is_stop(tokens, stops) & new).any(1)
            size = min(portion, more)
            if size == 0 or bool(ended.all()):
                return
            more -= size
            insert = torch.zeros_like(tokens[:, :1]).expand(-1, tokens.shape[1] + 1).clone()
            insert[:, -1] = size
            edit = Edit.of(edit.real, insert=insert)
            tokens = edit(tokens, 0 if mask is None else mask)
            tokens = torch.where(edit.inserted & ended[:, None], stops[0], tokens)
            new, given = edit(new, True), ~edit.inserted | ended[:, None]


def _shown(tokens: Tensor, calls: Tensor, still_open: Tensor, edit: Edit) -> Step:
    """The canvas before the model is asked."""
    nothing = torch.full(tokens.shape, torch.nan, device=tokens.device)
    return Step(tokens, edit.inserted, nothing, calls, still_open, edit=edit)
