"""Windows per row: rows of any length, moved within a wider canvas so that their blocks begin and end together.

Blocks that count from the first token of a row begin at columns that depend on its padding. So a row of n tokens gets
padding behind it, up to a multiple of the block length S, and as much in front as the longest row needs:

    |  padding, a multiple of S  |  n tokens  |  padding, less than S  |

Decoding then sees blocks of S columns in all rows, and the last one is the last of every row. What it reports is moved
back. A model that heeds the attention mask, as batches of rows of different lengths need in any case, can't tell.

Shapes: B rows, L columns of the canvas, E columns of the wider one.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llada.rows import left_padding
from llada.samplers.sampler import Step
from llada.samplers.state import State


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the columns of a canvas stand in the wider one.

    Args:
        tokens: (B, L) int64, the canvas.
        source: (B, E) int64, the column that each of the wider canvas comes from; outside of 0 .. L - 1 for none.
        target: (B, L) int64, the column of the wider canvas that each column has gone to.
    """

    tokens: Tensor
    source: Tensor
    target: Tensor

    def move(self, values: Tensor) -> Tensor:
        """Values of the canvas (B, L, ...) in the wider one, (B, E, ...); 0 or false where there are none."""
        known = (self.source >= 0) & (self.source < values.shape[1])
        index = self.source.clamp(0, values.shape[1] - 1)
        shape = (*index.shape, *[1] * (values.dim() - 2))
        moved = values.gather(1, index.view(shape).expand(*index.shape, *values.shape[2:]))
        return moved.masked_fill(~known.view(shape), 0)

    def state(self, state: State, attention_mask: Tensor) -> State:
        """The state before the first step, of the wider canvas.

        Args:
            state: of the canvas.
            attention_mask: (B, E), of the wider one.
        """
        tokens = self.move(state.tokens)
        return replace(
            state,
            tokens=tokens,
            open=self.move(state.open),
            given=~self.move(~state.given),
            offset=left_padding(tokens, attention_mask),
            confidence=torch.full(tokens.shape, torch.nan, device=tokens.device),
        )

    def kwargs(self, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the model; tensors with a value for each token are moved."""
        size = self.tokens.shape
        return {
            name: self.move(value) if isinstance(value, Tensor) and value.shape[:2] == size else value
            for name, value in model_kwargs.items()
        }

    def back(self, step: Step) -> Step:
        """A step of the wider canvas as one of the canvas."""
        width = step.tokens.shape[1]
        inside = (self.target >= 0) & (self.target < width)
        index = self.target.clamp(0, width - 1)
        return replace(
            step,
            tokens=torch.where(inside, step.tokens.gather(1, index), self.tokens),
            changed=step.changed.gather(1, index) & inside,
            confidence=step.confidence.gather(1, index).masked_fill(~inside, torch.nan),
            open=step.open.gather(1, index) & inside,
            log_prob=None if step.log_prob is None else step.log_prob.gather(1, index).masked_fill(~inside, 0.0),
        )


def align(tokens: Tensor, attention_mask: Tensor | None, length: int | None) -> Alignment | None:
    """The wider canvas in which blocks begin together; None where they do so already.

    Args:
        tokens: (B, L) int64, the canvas.
        attention_mask: (B, L) bool or 0/1, true for real tokens; None: all.
        length: of blocks that count from the first token of a row; None for other windows.
    """
    if length is None or attention_mask is None:
        return None
    offset = left_padding(tokens, attention_mask)
    if not bool((offset % length).any()):
        return None
    blocks = (tokens.shape[1] - offset + length - 1) // length  # of each row
    total = int(blocks.max())
    shift = (total - blocks) * length - offset
    source = torch.arange(total * length, device=tokens.device) - shift
    return Alignment(tokens, source, torch.arange(tokens.shape[1], device=tokens.device) + shift)
