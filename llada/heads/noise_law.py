"""What is known of noised tokens when a head judges them: the law of the noise, and what the network's logits mean."""

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SCATTERED = 1e-30
"""Share of a random token that counts as none: the divergence is then a times the cross-entropy."""


class NoiseLaw(NamedTuple):
    """The two numbers of the laws q and p, for tokens of any shape (or one that broadcasts).

    Attributes:
        kept: a, float64.
        scattered: u, the share of each single data token, float64.
        num_tokens: the data tokens have ids 0 .. num_tokens - 1.
        hole: one of these ids that is no data token, the mask's; None if it isn't among them.
    """

    kept: Tensor
    scattered: Tensor
    num_tokens: int
    hole: int | None = None

    @property
    def num_data(self) -> int:
        """The number of data tokens, K."""
        return self.num_tokens - (self.hole is not None)

    def is_data(self, tokens: Tensor) -> Tensor:
        """Which tokens are data, bool of the same shape."""
        inside = tokens < self.num_tokens
        return inside if self.hole is None else inside & (tokens != self.hole)

    def only_data(self, logits: Tensor) -> Tensor:
        """The (..., V) logits, with minus infinity at all but the data tokens."""
        return logits.masked_fill(~self.is_data(torch.arange(logits.shape[-1], device=logits.device)), -torch.inf)

    @property
    def size(self) -> Tensor:
        """The share of data tokens in all: a + K u."""
        return self.kept + self.num_data * self.scattered

    @property
    def odds(self) -> Tensor:
        """The ratio a / u."""
        return self.kept / self.scattered.clamp(min=LEAST_SCATTERED)


class NoisedTokens(NamedTuple):
    """What a head judges at N positions.

    Attributes:
        targets: x, (N,) int64.
        tokens: z, (N,) int64; one that isn't data is the mask.
        noise_law: kept and scattered (N,) each.
        posterior: whether the logits are those of the full posterior, as plain cross-entropy teaches it.
    """

    targets: Tensor
    tokens: Tensor
    noise_law: NoiseLaw
    posterior: bool = False

    def at(self, span: slice) -> "NoisedTokens":
        """Some of the positions."""
        part = self.noise_law._replace(kept=self.noise_law.kept[span], scattered=self.noise_law.scattered[span])
        return NoisedTokens(self.targets[span], self.tokens[span], part, self.posterior)


def leave_one_out(logits: Tensor, tokens: Tensor, noise_law: NoiseLaw) -> Tensor:
    """Logits of xhat from those of the full posterior: the noised token's own evidence taken away.

    Args:
        logits: (..., K).
        tokens: z, (...) int64.
        noise_law: of their shape, or one that broadcasts.

    Returns:
        (..., K), a copy.
    """
    is_data = noise_law.is_data(tokens)
    evidence = torch.log1p(noise_law.odds).expand(tokens.shape).where(is_data, 0.0)
    return logits.scatter_add(-1, (tokens * is_data)[..., None], -evidence.to(logits)[..., None])
