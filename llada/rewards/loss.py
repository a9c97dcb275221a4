"""Policy losses: what a written answer costs, from its tokens' log-probabilities, now and when it was written.

    ratio_i = exp(log p_i - log p_old_i),  1 where the policy is still the one that wrote the text

All losses have the gradient -A grad log p there. They differ in how far they let the policy go on from there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.rewards.episodes import Episodes
from llada.rewards.proxy import Terms


class PolicyLoss(ABC):
    """Turns terms into losses."""

    @abstractmethod
    def __call__(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        """The loss of each row, summed over its tokens, (B,) float64, differentiable.

        Args:
            terms: of the policy now.
            old: (B, L) float64, log-probabilities under the policy that wrote the rows.
            advantage: (B,) float64.
        """

    @abstractmethod
    def clipped(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        """Where the loss has no gradient any more, (B, L) bool."""


@dataclass(frozen=True)
class ClippedRatio(PolicyLoss):
    """PPO's, token by token: -min(ratio A, clip(ratio, 1 - low, 1 + high) A).

    Args:
        low: how far below 1 the ratio is followed, in [0, 1].
        high: and how far above.

    Raises:
        ValueError: if a number is out of its range.

    Reference:
        Schulman et al., arXiv 1707.06347, equation 7; two limits: Yu et al., "DAPO", arXiv 2503.14476.

    Examples:
        >>> import torch
        >>> from llada.rewards import ClippedRatio, Terms
        >>> terms = Terms(log_prob=torch.tensor([[0.5, 0.5]]).log(), weight=torch.ones(1, 2))  # the policy now
        >>> old = torch.tensor([[0.25, 0.5]]).log()  # and when it wrote the row: ratios 2 and 1
        >>> ClippedRatio(high=0.25)(terms, old, advantage=torch.tensor([1.0]))  # -(1.25 + 1)
        tensor([-2.2500])
        >>> ClippedRatio(high=0.25).clipped(terms, old, advantage=torch.tensor([1.0]))
        tensor([[ True, False]])
    """

    low: float = 0.2
    high: float = 0.28

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)

    @override
    def __call__(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        ratio, a = ratios(terms, old), advantage[:, None]
        lost = -torch.minimum(ratio * a, ratio.clamp(1.0 - self.low, 1.0 + self.high) * a)
        return (lost * terms.weight).sum(1)

    @override
    def clipped(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        return _beyond(ratios(terms, old), advantage[:, None], self.low, self.high)


@dataclass(frozen=True)
class ClippedRow(PolicyLoss):
    """The same with one ratio for a whole row: exp of the sum of its tokens' differences.

    Args:
        low: how far below 1 the ratio is followed, in [0, 1].
        high: and how far above.

    Raises:
        ValueError: if a number is out of its range.

    Reference:
        "LLaDA2.1", arXiv 2602.08676, equation 4.

    Examples:
        >>> import torch
        >>> from llada.rewards import ClippedRow, Terms
        >>> terms = Terms(log_prob=torch.tensor([[0.5, 0.5]]).log(), weight=torch.ones(1, 2))  # the policy now
        >>> old = torch.tensor([[0.25, 0.5]]).log()  # and when it wrote the row: ratios 2 and 1
        >>> ClippedRow(high=0.25)(terms, old, advantage=torch.tensor([1.0]))  # -min(2, 1.25)
        tensor([-1.2500])
        >>> ClippedRow(high=0.25)(terms, old, advantage=torch.tensor([-1.0]))  # what is bad is followed down
        tensor([2.])
    """

    low: float = 0.2
    high: float = 0.28

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)

    @override
    def __call__(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        ratio = self._ratio(terms, old)
        return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - self.low, 1.0 + self.high) * advantage)

    @override
    def clipped(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        beyond = _beyond(self._ratio(terms, old), advantage, self.low, self.high)
        return beyond[:, None].expand_as(old)

    def _ratio(self, terms: Terms, old: Tensor) -> Tensor:
        change = torch.where(terms.weight > 0.0, (terms.log_prob - old) * terms.weight, 0.0)
        return change.sum(1).clamp(-_MOST, _MOST).exp()


@dataclass(frozen=True)
class Reinforce(PolicyLoss):
    """-A log p, without a ratio: whatever the policy that wrote the text said of it.

    Examples:
        >>> import torch
        >>> from llada.rewards import Reinforce, Terms
        >>> terms = Terms(log_prob=torch.tensor([[0.5, 0.25]]).log(), weight=torch.ones(1, 2))
        >>> Reinforce()(terms, old=torch.zeros(1, 2), advantage=torch.tensor([1.0]))  # -(log 0.5 + log 0.25)
        tensor([2.0794])
    """

    @override
    def __call__(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        possible = torch.where(terms.log_prob.isfinite(), terms.log_prob, 0.0)
        return -advantage * (possible * terms.weight).sum(1)

    @override
    def clipped(self, terms: Terms, old: Tensor, advantage: Tensor) -> Tensor:
        return torch.zeros_like(old, dtype=torch.bool)


class Divisor(ABC):
    """What the sum of the rows' losses is divided by, over all micro-batches and ranks of a step."""

    @abstractmethod
    def __call__(self, episodes: Episodes) -> Tensor:
        """() float64, 1 or more."""


@dataclass(frozen=True)
class Tokens(Divisor):
    """Tokens that count, of all rows together: long answers weigh more, and none is pushed to be long or short.

    Reference:
        Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.rewards import PolicyObjective, Tokens
        >>> objective = PolicyObjective(divisor=Tokens())
        >>> objective.divisor(SimpleNamespace(scored=torch.tensor([[True, True, True], [True, False, False]])))
        tensor(4., dtype=torch.float64)
    """

    @override
    def __call__(self, episodes: Episodes) -> Tensor:
        return episodes.scored.sum().double().clamp(min=1.0)


@dataclass(frozen=True)
class Rows(Divisor):
    """Rows.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.rewards import PolicyObjective, Rows
        >>> objective = PolicyObjective(divisor=Rows())
        >>> objective.divisor(SimpleNamespace(tokens=torch.zeros(4, 20)))  # 4 rows, whatever their length
        tensor(4., dtype=torch.float64)
    """

    @override
    def __call__(self, episodes: Episodes) -> Tensor:
        return torch.full((), len(episodes.tokens), dtype=torch.float64, device=episodes.tokens.device)


@dataclass(frozen=True)
class OpenPositions(Divisor):
    """All positions that the sampler had to write, also those that don't count: rows times the answers' length.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.rewards import OpenPositions, PolicyObjective
        >>> objective = PolicyObjective(divisor=OpenPositions())
        >>> objective.divisor(SimpleNamespace(open=torch.ones(4, 16, dtype=torch.bool)))  # 4 answers of 16 places
        tensor(64., dtype=torch.float64)
    """

    @override
    def __call__(self, episodes: Episodes) -> Tensor:
        return episodes.open.sum().double().clamp(min=1.0)


def ratios(terms: Terms, old: Tensor) -> Tensor:
    """(B, L) float64, 0 for a token that the policy can't write any more, 1 where nothing counts."""
    change = torch.where(terms.weight > 0.0, terms.log_prob - old, 0.0)
    possible = change.isfinite()
    ratio = torch.where(possible, change, 0.0).clamp(-_MOST, _MOST).exp()
    return torch.where(possible, ratio, 0.0)


def k3(log_prob: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(policy, reference) from one token each: exp(d) - d - 1 with d = log p_ref - log p; 0 or more.

    Reference:
        Schulman, "Approximating KL Divergence" (2020).
    """
    d = torch.where((reference - log_prob).isfinite(), reference - log_prob, 0.0).clamp(-_MOST, _MOST)
    return d.exp() - d - 1.0


_MOST = 10.0
"""Differences of log-probabilities are cut here, so that no ratio overflows."""


def _beyond(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    return ((ratio > 1.0 + high) & (advantage > 0.0)) | ((ratio < 1.0 - low) & (advantage < 0.0))


def _check_limits(low: float, high: float) -> None:
    if not 0.0 <= low <= 1.0 or not high >= 0.0:
        raise ValueError(f"low must be in [0, 1] and high 0 or more; got {low} and {high}")
