"""Which token a position would get: temperature, nucleus and top-k filtering, and the draw.

A draw inverts the distribution function in float64: the first token v with p_1 + ... + p_v > u. It has the law of the
Gumbel-max trick, argmax_v (z_v / T - log(-log u_v)), and costs one random number instead of V. Either needs float64:
with the 24 bits of a float32 the largest Gumbel number is 16.6, which cuts the tail and so lowers the effective
temperature.

Reference: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
Categorical Sampling", arXiv 2409.02908.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llada.random import RowRandom


@dataclass(frozen=True)
class Candidates:
    """The positions that a step may write.

    Attributes:
        positions: (B, M) int64, columns of the canvas; rising in each row as far as they are valid.
        valid: (B, M) bool; rows with fewer candidates than others are filled up with positions that aren't any.
        tokens: (B, L) int64, the canvas before the step.
        offset: (B, 1) int64, the padding in front of each row.
        mask_token_id: never written.
    """

    positions: Tensor
    valid: Tensor
    tokens: Tensor
    offset: Tensor
    mask_token_id: int

    @cached_property
    def places(self) -> Tensor:
        """(B, M) int64, positions counted from the first real token of the row: what random numbers belong to."""
        return self.positions - self.offset


@dataclass(frozen=True)
class Proposed:
    """A token for every candidate position, and the logits behind it.

    Attributes:
        candidates: where.
        tokens: (B, M) int64.
        logits: (B, M, V) float32, as the model gave them, forbidden tokens at minus infinity.
        filtered: (B, M, V), after temperature, top-p and top-k; the same tensor where nothing was filtered.
    """

    candidates: Candidates
    tokens: Tensor
    logits: Tensor
    filtered: Tensor

    @cached_property
    def probability(self) -> Tensor:
        """(B, M) float32, the model's own probability of the proposed tokens."""
        return token_probability(self.logits, self.tokens)


def token_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of the tokens under the logits.

    Args:
        logits: (..., V) float32.
        tokens: (...) int64.

    Returns:
        (...) float32.
    """
    return (logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)).exp()


def gumbel_argmax(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample of softmax(logits) by the Gumbel-max trick in float64, as LLaDA's released code draws it.

    Args:
        logits: (..., V).
        uniform: (..., V) float64 in (0, 1).

    Returns:
        (...) int64.
    """
    return (logits.double() - (-uniform.log()).log()).argmax(-1)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample of softmax(logits) by inversion in float64.

    Args:
        logits: (..., V), not all minus infinity.
        uniform: (...) float64 in (0, 1).

    Returns:
        (...) int64; never a token at minus infinity.
    """
    logits = logits.to(torch.float64, copy=True)
    mass = logits.sub_(logits.amax(-1, keepdim=True)).exp_().cumsum(-1)
    target = uniform[..., None] * mass[..., -1:]
    return torch.searchsorted(mass, target, right=True).squeeze(-1)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Drop all but the smallest set of tokens whose probability reaches ``top_p``; the best one always stays."""
    ordered, index = logits.sort(-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, ordered.masked_fill(before >= top_p, -torch.inf))


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Drop all but the ``top_k`` most likely tokens (and those that tie with the last of them)."""
    k = min(top_k, logits.shape[-1])
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -torch.inf)


@dataclass(frozen=True)
class Proposal:
    """How a token is drawn from the logits of a position.

    Args:
        temperature: T; 0 takes the most likely token.
        top_p: keep the smallest set of tokens with this much probability, in (0, 1]; None for all.
        top_k: keep this many tokens; None for all.
        forbidden: ids that are never written. The mask token never is, in any case.

    Raises:
        ValueError: if an option is out of its range.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature must be 0 or more; got {self.temperature}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1]; got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more; got {self.top_k}")

    def __call__(self, logits: Tensor, candidates: Candidates, *, random: RowRandom) -> Proposed:
        """Propose a token at every candidate position.

        Args:
            logits: (B, M, V).
            candidates: the positions.
            random: the rows' streams; a number belongs to the position in the row, whatever the padding.
        """
        logits = forbid(logits.float(), (candidates.mask_token_id, *self.forbidden))
        filtered = self.filter(logits)
        if self.temperature == 0.0:
            tokens = filtered.argmax(-1)
        else:
            tokens = inverse_cdf(filtered, random.uniform_at(candidates.places))
        return Proposed(candidates, tokens, logits, filtered)

    def filter(self, logits: Tensor) -> Tensor:
        """Logits after temperature, then top-p, then top-k; (..., V)."""
        filtered = logits if self.temperature in (0.0, 1.0) else logits / self.temperature
        if self.top_p is not None:
            filtered = keep_top_p(filtered, self.top_p)
        return filtered if self.top_k is None else keep_top_k(filtered, self.top_k)


def forbid(logits: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """A copy of (..., V) logits in which some tokens have minus infinity.

    Raises:
        ValueError: if a token isn't in the vocabulary.
    """
    outside = [token for token in tokens if not 0 <= token < logits.shape[-1]]
    if outside:
        raise ValueError(f"token {outside[0]} is outside of the model's vocabulary of {logits.shape[-1]}")
    index = torch.tensor(tokens, device=logits.device)
    return logits.index_fill(-1, index, -torch.inf)
