"""What an objective is: (model, process, clean tokens) -> a loss to minimise, and a bound to report.

The two are different numbers. The loss is ``numerator / denominator``, kept apart so that gradient accumulation and
data parallelism can divide the sum over all micro-batches by the sum of all denominators, and so equal the single big
batch. The report is the negative evidence lower bound (NELBO) of each row in nats, whatever is minimised.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import as_denoiser
from llada.objectives.normaliser import Normaliser
from llada.process import MaskingProcess, Noised
from llada.random import RowRandom

TIMES, MASKS, LENGTH = range(3)
"""Tags of the random streams within a step."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss and what to report with it.

    Attributes:
        numerator: (), differentiable, nats.
        denominator: (), what the normaliser divides by.
        nelbo: (B,) float64, detached: an estimate of the bound on -log p(row) in nats, with the weight of the bound.
            Its expectation is the bound only if the times cover (0, 1].
        num_tokens: (B,) maskable tokens of each row, int64.
        t: (B,) noise level of each row: the time, or the share of masked tokens where the count is exact.
        masked_nll: (B,) float64, detached: sum of the unweighted cross-entropies of the row's masked tokens, nats.
        num_masked: (B,) int64.
    """

    numerator: Tensor
    denominator: Tensor
    nelbo: Tensor
    num_tokens: Tensor
    t: Tensor
    masked_nll: Tensor
    num_masked: Tensor

    @property
    def loss(self) -> Tensor:
        """``numerator / denominator``, ()."""
        return self.numerator / self.denominator


class Objective(ABC):
    """Turns a model, a process and clean tokens into a loss."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        process: MaskingProcess,
        x_0: Tensor,
        maskable: Tensor | None = None,
        *,
        random: RowRandom,
        **model_kwargs: Any,
    ) -> ObjectiveOutput:
        """Corrupt the rows, run the model on them and score it.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            process: the forward process.
            x_0: clean tokens, (B, L) int64.
            maskable: (B, L) bool, False for the prompt and for padding. Supervised fine-tuning is pretraining with
                ``maskable`` = answer. None: all True.
            random: the rows' random streams; the same streams give the same loss.
            model_kwargs: for the model.
        """


def score(
    model: Any,
    process: MaskingProcess,
    x_0: Tensor,
    maskable: Tensor,
    noised: Noised,
    *,
    weight: Tensor,
    bound_weight: Tensor,
    normaliser: Normaliser,
    t: Tensor,
    **model_kwargs: Any,
) -> ObjectiveOutput:
    """The tail that masked objectives share: cross-entropy of the masked tokens, weighted and summed.

    Args:
        model: whatever `llada.denoiser.as_denoiser` takes.
        process: the forward process.
        x_0: clean tokens, (B, L).
        maskable: (B, L) bool.
        noised: the corrupted rows.
        weight: training weight, (B,) or (B, L).
        bound_weight: weight of the bound, (B,) or (B, L).
        normaliser: what the training loss is divided by.
        t: (B,) noise level, for the report.
        model_kwargs: for the model, the process's conditioning included.
    """
    scale, denominator = normaliser(maskable, noised.scored)
    if scale.ndim == 1:
        scale = scale[:, None]
    if weight.ndim == 1:
        weight = weight[:, None]
    if bound_weight.ndim == 1:
        bound_weight = bound_weight[:, None]
    weights = (weight * scale).expand_as(x_0)[noised.scored]
    numerator, terms = as_denoiser(model).weighted_nll(
        noised.tokens, x_0, noised.scored, weights, forbidden=process.suppressed, **model_kwargs
    )
    nll = torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)
    nll[noised.scored] = terms.double()
    return ObjectiveOutput(
        numerator=numerator,
        denominator=denominator,
        nelbo=(nll * bound_weight).sum(1),
        num_tokens=maskable.sum(1),
        t=t,
        masked_nll=nll.sum(1),
        num_masked=noised.scored.sum(1),
    )
