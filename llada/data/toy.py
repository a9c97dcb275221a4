"""Toy languages whose every probability is known, for tests, documentation and examples.

A language is a table p(x) over all V^L rows. The optimal denoiser of a masked row is then a sum over the rows that
agree with what is visible:

    p(x^i = v | visible) = sum_{x : x agrees, x^i = v} p(x) / sum_{x : x agrees} p(x)

Shapes: B rows, L positions, V tokens; the mask token has id V. S = V^L.
"""

import numpy as np
import torch
from torch import Tensor


class ToyLanguage:
    """A known distribution over rows of L tokens from a vocabulary of V.

    Args:
        probabilities: p, of shape (V, ..., V) with L dimensions, or for a row of one token (V,); normalised here.

    Raises:
        ValueError: if the dimensions differ, an entry is negative or not finite, or all are zero.

    Reference:
        The optimum doesn't depend on the noise level: Ou et al., "Your Absorbing Discrete Diffusion Secretly Models the
        Conditional Distributions of Clean Data", arXiv 2406.03736, theorem 1.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # "0 0" or "1 1"
        >>> canvases = torch.tensor([[2, 2], [2, 1]])  # both masked, and the first alone
        >>> language.oracle(canvases).exp()[:, 0]  # the posterior of the first token
        tensor([[0.7500, 0.2500, 0.0000],
                [0.0000, 1.0000, 0.0000]], dtype=torch.float64)
        >>> round(language.entropy(), 4)
        0.5623
    """

    def __init__(self, probabilities: Tensor) -> None:
        if probabilities.ndim == 0 or len(set(probabilities.shape)) != 1:
            raise ValueError(f"probabilities must be (V, ..., V), L dimensions; got {tuple(probabilities.shape)}")
        p = probabilities.double()
        if not bool(torch.isfinite(p).all()) or bool((p < 0).any()) or not bool(p.sum() > 0):
            raise ValueError("probabilities must be finite, 0 or more, and not all 0")
        self.probabilities = p / p.sum()
        self.vocab_size, self.length = p.shape[0], p.ndim
        values = torch.arange(self.vocab_size)
        self.rows = torch.cartesian_prod(*[values] * self.length).reshape(-1, self.length)
        """(S, L) int64, all rows, in the order of the flattened table."""

    @classmethod
    def dirichlet(cls, vocab_size: int, length: int, concentration: float = 1.0, seed: int = 0) -> "ToyLanguage":
        """A random table: p ~ Dirichlet(concentration, ..., concentration).

        Args:
            vocab_size: V.
            length: L.
            concentration: above 0; small values put the weight on few rows.
            seed: of the table.
        """
        table = np.random.default_rng(seed).dirichlet(np.full(vocab_size**length, float(concentration)))
        return cls(torch.from_numpy(table).reshape((vocab_size,) * length))

    @classmethod
    def markov(cls, vocab_size: int, length: int, concentration: float = 1.0, seed: int = 0) -> "ToyLanguage":
        """A Markov chain with random start and transition probabilities.

        Args:
            vocab_size: V.
            length: L.
            concentration: of the Dirichlet distribution that start and transitions are drawn from.
            seed: of the chain.
        """
        random = np.random.default_rng(seed)
        draws = torch.from_numpy(random.dirichlet(np.full(vocab_size, float(concentration)), size=vocab_size + 1))
        table, transition = draws[0], draws[1:]
        for _ in range(length - 1):
            table = table[..., None] * transition
        return cls(table)

    @property
    def mask_token_id(self) -> int:
        """V."""
        return self.vocab_size

    def sample(self, num_rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw rows.

        Args:
            num_rows: B.
            generator: source of randomness; None for torch's own.

        Returns:
            (B, L) int64.
        """
        p = self.probabilities.flatten()
        return self.rows[torch.multinomial(p, num_rows, replacement=True, generator=generator)]

    def index(self, tokens: Tensor) -> Tensor:
        """Place of each row in `rows`.

        Args:
            tokens: (B, L) int64 without masks.

        Returns:
            (B,) int64.

        Raises:
            ValueError: if a token isn't in 0..V-1.
        """
        if bool(((tokens < 0) | (tokens >= self.vocab_size)).any()):
            raise ValueError(f"tokens must be in 0..{self.vocab_size - 1}")
        powers = self.vocab_size ** torch.arange(self.length - 1, -1, -1)
        return (tokens.cpu() * powers).sum(1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log-probability of each row in nats, (B,) float64; arguments as in `index`."""
        return self.probabilities.flatten()[self.index(tokens)].log()

    def entropy(self) -> float:
        """-sum p log p in nats per row."""
        return float(-torch.special.xlogy(self.probabilities, self.probabilities).sum())

    def oracle(self, tokens: Tensor) -> Tensor:
        """The optimal denoiser: log of the exact posterior of every position given the visible ones.

        Args:
            tokens: (B, L) int64, with V where a token is masked.

        Returns:
            (B, L, V + 1) float64 logits, normalised; -inf for the mask and for what is impossible.

        Raises:
            ValueError: if a row's visible tokens have probability 0 together.
        """
        masked = tokens == self.mask_token_id
        agrees = ((self.rows == tokens.cpu()[:, None]) | masked.cpu()[:, None]).all(2)  # (B, S)
        joint = agrees * self.probabilities.flatten()
        total = joint.sum(1)
        if bool((total == 0).any()):
            raise ValueError(f"row {int((total == 0).nonzero()[0])} shows tokens that have probability 0 together")
        one_hot = torch.nn.functional.one_hot(self.rows, self.vocab_size + 1).double()  # (S, L, V + 1)
        posterior = torch.einsum("bs,slv->blv", joint / total[:, None], one_hot)
        return posterior.log().to(tokens.device)
