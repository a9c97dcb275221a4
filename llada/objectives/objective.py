"""What an objective is: (model, process, batch of clean rows) -> a loss to minimise, and a bound to report.

The two are different numbers. The loss is ``numerator / denominator``, kept apart so that gradient accumulation and
data parallelism can divide the sum over all micro-batches by the sum of all denominators, and so equal the single big
batch. The report is the negative evidence lower bound (NELBO) of each row in nats, whatever is minimised.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llada.process import Process
from llada.random import RowRandom

Batch = Mapping[str, Any]
"""Columns by name: ``tokens`` (B, L) int64, and if they are there ``maskable``, ``attention_mask``, ``segment_ids``."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss and what to report with it.

    Attributes:
        numerator: (), differentiable, nats.
        denominator: (), what the normaliser divides by.
        nelbo: (B,) float64, detached: an estimate of the bound on -log p(row) in nats, with the weight of the bound.
        num_tokens: (B,) int64, the tokens of each row that the bound is about.
        t: (B,) noise level of each row: the time, or the share of masked tokens where the count is exact.
        scored_nll: (B,) float64, detached: sum of the unweighted divergences of the row's scored tokens, nats; for
            masked diffusion the cross-entropy of the masked ones.
        num_scored: (B,) int64.
        sums: further numbers to log by name, () each; their mean is the sum over all batches divided by that of the
            denominators.
    """

    numerator: Tensor
    denominator: Tensor
    nelbo: Tensor
    num_tokens: Tensor
    t: Tensor
    scored_nll: Tensor
    num_scored: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """``numerator / denominator``, ()."""
        return self.numerator / self.denominator


class Objective(ABC):
    """Turns a model, a process and a batch of clean rows into a loss."""

    @abstractmethod
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        """Corrupt the rows, run the model on them and score it.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            process: the noise process.
            batch: columns by name, see `Batch`; an objective may ask for columns of its own, such as advantages. A
                tensor stands for the tokens alone. ``maskable`` (B, L) bool is False for the prompt and for padding:
                supervised fine-tuning is pretraining with ``maskable`` = answer; without it every token is maskable but
                those that ``attention_mask`` (B, L) hides.
            random: the rows' random streams; the same streams give the same loss.

        Raises:
            ValueError: if the batch doesn't fit the objective, the process or the model.
        """

    @property
    def left_to_right(self) -> bool:
        """Whether ``nelbo`` is the exact likelihood of an autoregressive model, read from left to right."""
        return False

    def bound_gap(self, process: Process) -> str | None:
        """Why ``nelbo`` is no bound under this process, as the end of a sentence; None if it is one.

        An objective of your own says None here if the expectation of its ``nelbo`` is at least -log p(row).
        """
        return f"{type(self).__name__}.bound_gap doesn't say that it is one"


def columns(batch: Batch | Tensor) -> Batch:
    """The columns of a batch; a tensor is the column ``tokens``, and padding is never maskable."""
    if isinstance(batch, Tensor):
        return {"tokens": batch}
    real = batch.get("attention_mask")
    if real is None:
        return batch
    maskable = batch.get("maskable")
    return {**batch, "maskable": real.bool() if maskable is None else maskable & real.bool()}


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """The columns of a batch that a model reads beside the tokens: ``attention_mask`` and ``segment_ids``, (B, L)."""
    return {name: batch[name] for name in ("attention_mask", "segment_ids") if batch.get(name) is not None}
