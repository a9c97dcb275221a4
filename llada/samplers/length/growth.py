"""A canvas that gets its masks one block at a time, for as long as some row goes on.

    begin with n blocks; whenever one is finished: append one, unless every row holds a stop token

So the model always has the same number of masks in view, until the longest canvas is reached. A block-causal model sees
nothing of later blocks anyway, and writes what it would have written on the longest canvas, with the same random
numbers. Rows that have ended are filled behind their stop token, as they would be there.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from llada.process.columns import Edit
from llada.samplers.layout import Span
from llada.samplers.run import Run
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import fill_rows, is_stop, token_ids
from llada.samplers.window import Window


@dataclass(frozen=True)
class Growth:
    """What becomes of the length of one run.

    Args:
        num_more: most columns that are appended, 0 or more.
        window: blocks, with the tokens that end a row.
        length: columns of the canvas before decoding.
    """

    num_more: int
    window: Window
    length: int

    def longest(self, state: State) -> State:
        """A state that is open as far as the longest canvas, among whose windows the steps are shared."""
        return replace(state, open=F.pad(state.open, (0, self.num_more), value=True))

    def is_over(self, state: State) -> bool:
        """Whether every row has written a stop token; windows that aren't finished hold none."""
        return bool(self._ended(state).all())

    def reach(self, run: Run, state: State, spans: list[Span], index: int) -> tuple[Run, State, Step]:
        """Make the canvas as long as it must be for a span.

        Args:
            run: asks the model.
            state: before the span.
            spans: all of them.
            index: of the span that is decoded next.

        Returns:
            Run and state on the canvas, and the step that shows it to viewers.
        """
        ahead = next(i for i, span in enumerate(spans) if span.stop >= self.length)
        more = spans[min(index + ahead, len(spans) - 1)].stop - state.tokens.shape[1]
        real = run.model_kwargs.get("attention_mask")
        real = torch.ones_like(state.open) if real is None else real.bool()
        insert = real.new_zeros(len(real), real.shape[1] + 1, dtype=torch.int64)
        insert[:, -1] = max(0, more)
        edit = Edit.of(real, insert=insert)
        if more > 0:
            stops, ended = token_ids(self.window.stop_token_ids), self._ended(state)
            state = state.moved(edit, stops[0])
            tokens, filled = fill_rows(state.tokens, state.open, ended, stops)
            state = replace(state, tokens=tokens, open=state.open & ~filled)
            run = run.moved(edit, state)
        nothing = torch.full_like(state.confidence, torch.nan)
        return run, state, Step(state.tokens, edit.inserted, nothing, state.calls, state.open, edit=edit)

    def _ended(self, state: State) -> torch.Tensor:
        """(B,) bool, the rows that have written a stop token."""
        return (is_stop(state.tokens, token_ids(self.window.stop_token_ids)) & ~state.given).any(1)
