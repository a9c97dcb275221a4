"""What is known of noised tokens when a head judges them: the law of the noise, and what the network's logits mean."""

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SCATTERED = 1e-30
"""Share of a random token that counts as none: the divergence is then a times the cross-entropy."""


class Mixture(NamedTuple):
    """The two numbers of the laws q and p, for tokens of any shape (or one that broadcasts).

    Attributes:
        kept: a, float64.
        scattered: u, the share of each single data token, float64.
        num_tokens: K, the data tokens, with ids 0 .. K - 1.
    """

    kept: Tensor
    scattered: Tensor
    num_tokens: int

    @property
    def size(self) -> Tensor:
        """The share of data tokens in all: a + K u."""
        return self.kept + self.num_tokens * self.scattered

    @property
    def odds(self) -> Tensor:
        """The ratio a / u."""
        return self.kept / self.scattered.clamp(min=LEAST_SCATTERED)


class NoisedTokens(NamedTuple):
    """What a head judges at N positions.

    Attributes:
        targets: x, (N,) int64.
        tokens: z, (N,) int64; one that isn't among the K is the mask.
        mixture: kept and scattered (N,) each.
        posterior: whether the logits are those of the full posterior, as plain cross-entropy teaches it.
    """

    targets: Tensor
    tokens: Tensor
    mixture: Mixture
    posterior: bool = False

    def at(self, span: slice) -> "NoisedTokens":
        """Some of the positions."""
        kept, scattered, num_tokens = self.mixture
        return NoisedTokens(
            self.targets[span], self.tokens[span], Mixture(kept[span], scattered[span], num_tokens), self.posterior
        )


def leave_one_out(logits: Tensor, tokens: Tensor, mixture: Mixture) -> Tensor:
    """Logits of xhat from those of the full posterior: the noised token's own evidence taken away.

    Args:
        logits: (..., K).
        tokens: z, (...) int64.
        mixture: of their shape, or one that broadcasts.

    Returns:
        (..., K), a copy.
    """
    is_data = tokens < mixture.num_tokens
    evidence = torch.log1p(mixture.odds).expand(tokens.shape).where(is_data, 0.0)
    return logits.scatter_add(-1, (tokens * is_data)[..., None], -evidence.to(logits)[..., None])
