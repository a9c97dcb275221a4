"""What the tokens of a step are drawn from, with guidance and without.

Shapes: B rows, M candidates per row, V states.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from llada.samplers.propose import inverse_cdf


class StepLaw(NamedTuple):
    """What the tokens of a step are drawn from.

    Attributes:
        logits: the model's, (B, M, V).
        own: the law of the step without guidance, (B, M, V) float64 probabilities.
        log: that of the guided step, (B, M, V) float64, up to a constant per position; None where nothing guides.
        answered: (B, M) bool, where the law is one.
    """

    logits: Tensor
    own: Tensor
    log: Tensor | None
    answered: Tensor

    @classmethod
    def of(cls, logits: Tensor, clean: Tensor, own: Tensor) -> Self:
        """Without guidance.

        Args:
            logits: the model's, (B, M, V).
            clean: xhat, (B, M, V).
            own: the law of the step, (B, M, V) float64.
        """
        return cls(logits, own, None, clean.isfinite().all(-1))

    def draw(self, uniform: Tensor) -> Tensor:
        """Tokens (B, M) int64 for uniform numbers (B, M) float64."""
        return inverse_cdf(self.own.log() if self.log is None else self.log, uniform)

    def log_ratio(self, tokens: Tensor, written: Tensor) -> Tensor:
        """How much likelier the tokens are without guidance than with it, (B,) float64 nats; over written positions."""
        if self.log is None:
            return torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        ratio = self.own.log() - self.log.log_softmax(-1)
        return ratio.gather(-1, tokens[..., None]).squeeze(-1).masked_fill(~written, 0.0).sum(1)
