"""The loss of an autoregressive model, in the same terms as those of diffusion.

    -log p(x) = sum_i -log p(x_i | x_1, ..., x_{i-1})

A backbone that is causal and shifted answers for position i from tokens before i alone, so it is a denoiser to which
every token is visible and nothing is masked; see `llada.autoregressive`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llada.objectives.normaliser import Normaliser, PerToken
from llada.objectives.objective import Objective, ObjectiveOutput, score
from llada.process import MaskingProcess, Noised, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class NextTokenNLL(Objective):
    """The cross-entropy of every token given those before it. The reported ``nelbo`` is no bound but exact.

    The first real token of a row, or of a packed segment, has nothing before it: it isn't scored, and ``num_tokens``
    leaves it out. Rows that begin with BOS lose nothing.

    Args:
        normaliser: what the loss is divided by.
    """

    normaliser: Normaliser = field(default_factory=PerToken)

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
        """See `Objective`; ``random`` isn't used."""
        scored = check_maskable(x_0, maskable) & has_context(x_0, **model_kwargs)
        ones = torch.ones(len(x_0), dtype=torch.float64, device=x_0.device)
        return score(
            model,
            process,
            x_0,
            scored,
            Noised(x_0, scored),
            weight=ones,
            bound_weight=ones,
            normaliser=self.normaliser,
            t=ones,
            **model_kwargs,
        )


def has_context(
    tokens: Tensor, attention_mask: Tensor | None = None, segment_ids: Tensor | None = None, **_: Any
) -> Tensor:
    """Which tokens have another one before them in their row and segment, (B, L) bool.

    Args:
        tokens: (B, L).
        attention_mask: (B, L) bool, true for real tokens.
        segment_ids: (B, L) integers of packed rows.
    """
    context = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    context[:, 1:] = True
    if attention_mask is not None:
        context[:, 1:] &= attention_mask[:, :-1].bool()
    if segment_ids is not None:
        context[:, 1:] &= segment_ids[:, 1:] == segment_ids[:, :-1]
    return context
