"""How many positions a step commits: a policy looks at the candidates' scores and chooses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llada.random import RowRandom
from llada.samplers.order import Measure
from llada.samplers.propose import Candidates
from llada.samplers.rates.rates import Progress


@dataclass(frozen=True)
class Scored:
    """Candidates with their scores.

    Attributes:
        scores: (B, M) float, higher is better.
        candidates: where they are.
        logits: (B, M, V) float32, the model's; None under an order that didn't run it.
    """

    scores: Tensor
    candidates: Candidates
    logits: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """(B, M) bool, which entries are candidates."""
        return self.candidates.valid

    @property
    def positions(self) -> Tensor:
        """(B, M) int64, columns of the canvas, rising as far as they are valid."""
        return self.candidates.positions


def take_best(scores: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """The best-scoring candidates of each row; of equal ones the leftmost.

    Args:
        scores: (B, M).
        valid: (B, M) bool, which of them are candidates.
        count: (B,) how many to take.

    Returns:
        (B, M) bool.
    """
    rank = ranks(scores, valid)
    return (rank < count[:, None]) & valid


def ranks(scores: Tensor, valid: Tensor) -> Tensor:
    """Place of each candidate when they are sorted from best to worst, (B, M) int64 from 0; the others come last."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def best(scored: Scored) -> Tensor:
    """The best candidate of each row alone, (B, M) bool."""
    return take_best(scored.scores, scored.valid, torch.ones_like(scored.positions[:, 0]))


class Commit(ABC):
    """Chooses which candidates are written."""

    needs: ClassVar[Measure] = Measure.RANK
    """What the scores must be."""
    by_rates: ClassVar[bool] = False
    """Whether its counts follow the sampler's rates, so that tokens may be masked again."""

    @property
    @abstractmethod
    def steps(self) -> int | None:
        """Steps for the whole canvas, or None if the policy goes on until no mask is left."""

    @abstractmethod
    def __call__(self, scored: Scored, progress: Progress, *, random: RowRandom) -> Tensor:
        """Choose.

        Args:
            scored: the candidates.
            progress: where the step stands.
            random: the rows' streams.

        Returns:
            (B, M) bool, a subset of the candidates. A policy without `steps` takes at least one where there is one;
            one with `steps` has taken all after the last of them.
        """

    def start(self) -> "Commit":
        """What one run uses. A policy that remembers earlier steps returns a fresh object that does."""
        return self

    def masks_left(self, initial: int, step: int, num_steps: int) -> int | None:
        """Masks that are left in a window before a step, if that follows from their number alone.

        A sampler that knows it needn't ask the device. Must not decrease with ``initial``.

        Args:
            initial: masks when the window was opened.
            step: index of the step, 0 to ``num_steps``.
            num_steps: steps of the window; without `steps`, the masks in its fullest row.
        """
        return None

    def most(self, initial: int, step: int, num_steps: int) -> int | None:
        """Tokens that a step takes at most in a row of up to ``initial`` masks, if that follows from the number."""
        return None


@dataclass(frozen=True)
class Threshold(Commit):
    """Every candidate at or above a confidence, and always the best one.

    Args:
        threshold: least probability. Above 1: one token per step.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.3.
    """

    needs: ClassVar[Measure] = Measure.PROBABILITY
    threshold: float = 0.9

    @property
    def steps(self) -> None:
        """Until no mask is left."""
        return

    def __call__(self, scored: Scored, progress: Progress, *, random: RowRandom) -> Tensor:
        """See `Commit`."""
        return best(scored) | (scored.valid & (scored.scores >= self.threshold))


@dataclass(frozen=True)
class Factor(Commit):
    """The more are taken together, the surer each must be: the n-th best passes if p >= 1 - factor / (n + 1).

    Taken are the candidates before the first that fails, and always the best one. (The reference also takes the first
    that fails if it is the very last candidate, so that its last two masks always go together; that isn't done here.)

    Args:
        factor: f, above 0; more is bolder.

    Reference:
        Wu et al., arXiv 2505.22618, section 3.3.
    """

    needs: ClassVar[Measure] = Measure.PROBABILITY
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.factor > 0.0:
            raise ValueError(f"factor must be above 0; got {self.factor}")

    @property
    def steps(self) -> None:
        """Until no mask is left."""
        return

    def __call__(self, scored: Scored, progress: Progress, *, random: RowRandom) -> Tensor:
        """See `Commit`."""
        rank = ranks(scored.scores, scored.valid)
        passes = scored.scores >= 1.0 - self.factor / (rank + 2.0)
        return best(scored) | _before_first_failure(passes, rank, scored.valid)


@dataclass(frozen=True)
class EntropyBound(Commit):
    """As many of the most certain candidates as have entropies that sum, without the largest of them, to at most gamma.

    That sum bounds the error of writing them independently of one another.

    Args:
        gamma: nats, 0 or more; 0 takes one token per step, and those that are certain.

    Reference:
        Ben-Hamu et al., "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking", arXiv
        2505.24857, section 4.
    """

    needs: ClassVar[Measure] = Measure.NEGATIVE_ENTROPY
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not self.gamma >= 0.0:
            raise ValueError(f"gamma must be 0 or more; got {self.gamma}")

    @property
    def steps(self) -> None:
        """Until no mask is left."""
        return

    def __call__(self, scored: Scored, progress: Progress, *, random: RowRandom) -> Tensor:
        """See `Commit`."""
        rank = ranks(scored.scores, scored.valid)
        entropy = (-scored.scores).masked_fill(~scored.valid, 0.0)
        ordered = torch.zeros_like(entropy).scatter(1, rank, entropy)
        before = (ordered.cumsum(1) - ordered).gather(1, rank)  # entropies rise, so the largest is one's own
        return best(scored) | (scored.valid & (before <= self.gamma))


def _before_first_failure(passes: Tensor, rank: Tensor, valid: Tensor) -> Tensor:
    """Candidates that pass, as do all better ones."""
    failed = torch.zeros_like(rank).scatter(1, rank, (~(passes & valid)).long())
    return (failed.cumsum(1) == 0).gather(1, rank) & valid
