"""What a sampler is: (model, partly masked canvas, process) -> the canvas without masks, step by step.

Whatever isn't the mask token when sampling starts is given and never changes: a prompt, the text around a hole,
padding.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.process import MaskingProcess


@dataclass(frozen=True)
class Step:
    """The canvas after a step, and what a viewer wants to know about it.

    Attributes:
        tokens: (B, L) int64; a tensor of its own, safe to keep.
        changed: (B, L) bool, where this step wrote.
        confidence: (B, L) float32, the model's probability of the token it proposed at each position that was
            considered; NaN elsewhere.
        calls: (B,) int64, model calls that each row has needed so far.
    """

    tokens: Tensor
    changed: Tensor
    confidence: Tensor
    calls: Tensor


class Sample(NamedTuple):
    """A finished canvas.

    Attributes:
        tokens: (B, L) int64, without masks.
        calls: (B,) int64, model calls that each row needed (NFE).
        generated: (B,) int64, tokens that were written into each row.
    """

    tokens: Tensor
    calls: Tensor
    generated: Tensor

    @property
    def tokens_per_call(self) -> Tensor:
        """(B,) float32; 0 for rows that needed no call."""
        return self.generated / self.calls.clamp(min=1)


class Sampler(ABC):
    """Fills the masks of a canvas."""

    @abstractmethod
    def iterate(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Iterator[Step]:
        """Yield the canvas after every step.

        History, streaming, progress and early stops are loops over this iterator.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            tokens: (B, L) int64, the canvas; not edited.
            process: owner of the mask token and the schedule.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers, one per row. A row's result depends on
                its own seed and content only.
            model_kwargs: for the model; ``attention_mask`` (B, L) bool marks the real tokens of padded rows.
        """

    @torch.no_grad()
    def __call__(
        self, model: Any, tokens: Tensor, process: MaskingProcess, *, seed: int | Tensor = 0, **model_kwargs: Any
    ) -> Sample:
        """Fill the masks; arguments as in `iterate`.

        Returns:
            The finished canvas. If there was nothing to fill, a copy of the input.
        """
        calls = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        canvas = tokens.clone()
        for step in self.iterate(model, tokens, process, seed=seed, **model_kwargs):
            canvas, calls = step.tokens, step.calls
        return Sample(canvas, calls, process.is_masked(tokens).sum(1))
