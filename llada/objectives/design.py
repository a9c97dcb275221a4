"""What a design is: which noise levels and which positions the rows of a batch get.

The bound is an expectation over noise levels t and corrupted rows x_t,

    -log p(x_0) <= E [ sum_{i scored} w_i divergence_i(x_0, x_t) ],

and there are many ways to draw (t, x_t, w) that have this expectation. A design is one of them; it owns the weight w
that belongs to how it draws, so that nobody else has to know.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llada.denoiser import Denoiser
from llada.noise import TimeSampler
from llada.objectives.objective import Batch
from llada.process import Process
from llada.random import RowRandom
from llada.rows import segment_numbers

TIMES, MASKS, LENGTH = range(3)
"""Tags of the random streams within a step."""


@dataclass(frozen=True)
class Draw:
    """A corrupted batch, and all that weights and normalisers may ask of it.

    A design that reads each of the B rows several times stacks the copies: all first ones, then all second ones.

    Attributes:
        x_0: clean tokens, (N, L) int64, with N = copies * B.
        maskable: (N, L) bool, the tokens that the bound is about.
        tokens: x_t, (N, L) int64.
        scored: (N, L) bool, the tokens whose divergence counts.
        t: (N, 1) or, where a row has several noise levels, (N, L) float64: the time of each token.
        bound_weight: (N, 1) or (N, L) float64, the weight w of the bound.
        level: (N,) float64, the noise level of each row, for the report.
        inputs: what the model reads beside the tokens; every tensor has N rows.
        segments: (N, L) int64, the packed segment of each token, counted from 0, if every segment is a datum of its
            own; None: a row is one datum.
        blocks: (N, L) int64, the block of each token, if the model judges it by its own block; None: by the datum.
        copies: how often each row is read.
    """

    x_0: Tensor
    maskable: Tensor
    tokens: Tensor
    scored: Tensor
    t: Tensor
    bound_weight: Tensor
    level: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    segments: Tensor | None = None
    blocks: Tensor | None = None
    copies: int = 1

    def copy(self, number: int) -> "Draw":
        """One of the copies, counted from 0, as a draw of the B rows."""
        rows = len(self.x_0) // self.copies
        part = slice(number * rows, (number + 1) * rows)
        tensors = {name: value[part] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, inputs={name: value[part] for name, value in self.inputs.items()}, copies=1)


class Design(ABC):
    """Draws noise levels and corrupted rows."""

    @abstractmethod
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        """Corrupt a batch.

        Args:
            model: what will judge the rows; it knows its blocks.
            process: the noise process.
            batch: columns by name, see `llada.objectives.objective.Batch`.
            random: the rows' random streams.

        Raises:
            ValueError: if the batch doesn't fit the design, the process or the model.
        """

    @property
    def left_to_right(self) -> bool:
        """Whether every token is scored given those before it, so that nothing is left to chance."""
        return False

    def bound_gap(self, process: Process) -> str | None:
        """Why the weighted sum is no bound under this process, as the end of a sentence; None if it is one."""
        return f"{type(self).__name__}.bound_gap doesn't say that it is one"


def segments_of(batch: Batch) -> Tensor | None:
    """The packed segment of each token, counted from 0, (B, L) int64; None for rows that aren't packed."""
    ids = batch.get("segment_ids")
    return None if ids is None else segment_numbers(ids)


def level_per_datum(times: TimeSampler, random: RowRandom, segments: Tensor | None) -> Tensor:
    """A number in (0, 1] per row, (B, 1) float64; or one per packed segment, (B, L).

    The first segments of all rows have those of rows that aren't packed.

    Args:
        times: draws one per row: here for the first segments of all rows, then for the second ones, and so on.
        random: the rows' random streams for times.
        segments: (B, L) int64 as from `segments_of`.
    """
    if segments is None:
        return times(random)[:, None]
    drawn = [times(random), *(times(random.fold_in(number)) for number in range(1, int(segments.max()) + 1))]
    return torch.stack(drawn, dim=1).gather(1, segments)


def conditioning(process: Process, t: Tensor) -> dict[str, Tensor]:
    """What the model is told of the noise level.

    Args:
        process: the noise process.
        t: (B, 1), or (B, L) for rows of several noise levels.

    Raises:
        ValueError: if the model is told one number per row, and there are several.
    """
    if not process.time_conditioned:
        return {}
    if t.shape[1] > 1:
        raise ValueError(
            "the backbone is told one noise level per row, but every packed segment has its own (and blocks have "
            "different noise levels too); use a process without time_conditioned, rows that aren't packed, or "
            "NELBO(IndependentMasks(per_segment=False))"
        )
    return process.conditioning(t[:, 0])
