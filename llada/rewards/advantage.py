"""Advantages: how much better an answer is than the others to its prompt.

Of each prompt's G rewards r_1 .. r_G the policy gradient needs differences alone: a number that doesn't depend on the
answer itself may be taken off without changing its expectation.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override


class Advantage(ABC):
    """Turns the rewards of a group into advantages; 0 exactly where all rewards of a group are equal.

    Rewards that differ by rounding alone, such as sums in another order, are equal; a z-score would make 1 of it.
    """

    def __call__(self, rewards: Tensor) -> Tensor:
        """Advantages, (P, G) float64.

        Args:
            rewards: (P, G), of G answers to each of P prompts.

        Raises:
            ValueError: if a reward isn't finite or is too large to be compared, or a group has one answer alone.
        """
        if rewards.shape[1] < 2:
            raise ValueError(f"a group needs 2 answers or more to compare; got {rewards.shape[1]}")
        if not bool(torch.isfinite(rewards).all()):
            raise ValueError(f"rewards must be finite; got {rewards[~torch.isfinite(rewards)][0].item()}")
        rewards = rewards.double()
        spread, largest = rewards.amax(1) - rewards.amin(1), rewards.abs().amax(1)
        found = self.compare(rewards).masked_fill((spread <= _ROUNDING * largest)[:, None], 0.0)
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"rewards up to {float(largest.max()):g} are too large to be compared; scale them down")
        return found

    @abstractmethod
    def compare(self, rewards: Tensor) -> Tensor:
        """The rule, (P, G) float64 to (P, G) float64."""


@dataclass(frozen=True)
class GroupMean(Advantage):
    """r - mean: what diffu-GRPO and SPG use. It is (G - 1) / G times `LeaveOneOut`.

    Examples:
        >>> import torch
        >>> from llada.rewards import GroupMean
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])  # two prompts, four answers each
        >>> GroupMean()(rewards)
        tensor([[ 0.7500, -0.2500, -0.2500, -0.2500],
                [ 0.0000,  0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """

    @override
    def compare(self, rewards: Tensor) -> Tensor:
        return rewards - rewards.mean(1, keepdim=True)


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """r minus the mean of the others: the expectation of the gradient is that of the reward itself, for any G.

    Reference:
        Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (2019); Gong et al., arXiv 2506.20639.

    Examples:
        >>> import torch
        >>> from llada.rewards import LeaveOneOut
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])  # two prompts, four answers each
        >>> LeaveOneOut()(rewards)
        tensor([[ 1.0000, -0.3333, -0.3333, -0.3333],
                [ 0.0000,  0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """

    @override
    def compare(self, rewards: Tensor) -> Tensor:
        size = rewards.shape[1]
        return (rewards - rewards.mean(1, keepdim=True)) * (size / (size - 1))


@dataclass(frozen=True)
class ZScore(Advantage):
    """(r - mean) / standard deviation: groups that hardly differ count as much as others.

    Args:
        eps: added to the standard deviation.

    Raises:
        ValueError: if ``eps`` is negative.

    Reference:
        Shao et al., "DeepSeekMath", arXiv 2402.03300, equation 3; with ``eps=0`` TraceRL's.

    Examples:
        >>> import torch
        >>> from llada.rewards import ZScore
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])  # two prompts, four answers each
        >>> ZScore()(rewards)
        tensor([[ 1.7321, -0.5774, -0.5774, -0.5774],
                [ 0.0000,  0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        if not self.eps >= 0.0:
            raise ValueError(f"eps must be 0 or more; got {self.eps}")

    @override
    def compare(self, rewards: Tensor) -> Tensor:
        return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True, unbiased=False) + self.eps)


@dataclass(frozen=True)
class SoftmaxDifference(Advantage):
    """G (softmax(psi A) - softmax(-psi A)) over the group, with A = r - mean: what pulls and what pushes in wd1.

    Args:
        psi: how sharp.

    Raises:
        ValueError: if ``psi`` isn't above 0.

    Reference:
        Tang et al., "wd1", arXiv 2507.08838.

    Examples:
        >>> import torch
        >>> from llada.rewards import SoftmaxDifference
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])  # two prompts, four answers each
        >>> SoftmaxDifference(psi=2.0)(rewards)
        tensor([[ 2.6723, -0.8908, -0.8908, -0.8908],
                [ 0.0000,  0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """

    psi: float = 1.0

    def __post_init__(self) -> None:
        if not self.psi > 0.0:
            raise ValueError(f"psi must be above 0; got {self.psi}")

    @override
    def compare(self, rewards: Tensor) -> Tensor:
        scaled = self.psi * (rewards - rewards.mean(1, keepdim=True))
        return rewards.shape[1] * (scaled.softmax(1) - (-scaled).softmax(1))


_ROUNDING = 1e-12
"""Rewards that differ by less than this share of themselves are equal."""
