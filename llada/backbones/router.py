"""How a mixture chooses the experts of a token, and how much each of them counts.

    softmax   p = softmax(z),                            the k largest; p as they are, or divided by their sum
    grouped   s = sigmoid(z), chosen by s + bias,        the k largest within the best groups; c s / (sum of the k)

z = W x are the scores of all experts. A group counts as much as its two best experts together.

Shapes: N tokens, E experts, k experts per token, G groups of E / G experts each.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

TINY = 1e-20
"""Added to a sum before dividing by it, as the released code does."""


class Chosen(NamedTuple):
    """The experts of each token.

    Attributes:
        experts: (N, k) int64.
        weights: (N, k), in the dtype of the scores.
    """

    experts: Tensor
    weights: Tensor


class Router(ABC):
    """Chooses experts; without parameters of its own."""

    biased: bool = False
    """Whether the choice, not the weight, depends on a number that each expert has of its own."""
    in_float32: bool = False
    """Whether the scores are computed in float32, whatever the model's dtype is."""

    @abstractmethod
    def choose(self, scores: Tensor, count: int, bias: Tensor | None = None) -> Chosen:
        """The experts of each token.

        Args:
            scores: (N, E) float32 or float64, z.
            count: k.
            bias: (E,), where the router is biased.
        """

    def check(self, num_experts: int, count: int) -> None:
        """Whether that many experts can be chosen from.

        Raises:
            ValueError: if not, saying why.
        """
        if not 1 <= count <= num_experts:
            raise ValueError(f"experts_per_token must be in 1 .. {num_experts}; got {count}")


@dataclass(frozen=True)
class SoftmaxRouter(Router):
    """The experts of highest probability.

    Args:
        normalised: whether the weights of the chosen ones add up to 1 (Qwen3's mixture, SDAR), or are their shares
            among all experts (OLMoE, LLaDA-MoE).

    Reference:
        Muennighoff et al., "OLMoE", arXiv 2409.02060; LLaDA-MoE, arXiv 2509.24389.

    Examples:
        >>> import torch
        >>> from llada.backbones import SoftmaxRouter
        >>> scores = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()  # of four experts
        >>> SoftmaxRouter().choose(scores, count=2)
        Chosen(experts=tensor([[0, 2]]), weights=tensor([[0.5000, 0.3000]]))
        >>> SoftmaxRouter(normalised=True).choose(scores, count=2).weights
        tensor([[0.6250, 0.3750]])
    """

    normalised: bool = False

    @override
    def choose(self, scores: Tensor, count: int, bias: Tensor | None = None) -> Chosen:
        weights, experts = scores.softmax(-1).topk(count, dim=-1)
        return Chosen(experts, weights / weights.sum(-1, keepdim=True) if self.normalised else weights)


@dataclass(frozen=True)
class GroupedRouter(Router):
    """LLaDA2's router: each expert scored on its own, the experts in groups, and a bias that balances their load.

    Args:
        num_groups: G, a divisor of the number of experts.
        groups_per_token: how many groups a token's experts may come from.
        scale: c, the sum of a token's weights if it has more than one expert.

    Raises:
        ValueError: if ``groups_per_token`` isn't in 1 .. ``num_groups``.

    Reference:
        Liu et al., "DeepSeek-V3", arXiv 2412.19437, section 2.1.2; Bie et al., "LLaDA2.0", arXiv 2512.15745.

    Examples:
        >>> import torch
        >>> from llada.backbones import GroupedRouter
        >>> scores = torch.tensor([[3.0, -2.0, 2.0, 2.0]])  # two groups of two experts; the second is better
        >>> GroupedRouter(num_groups=2, groups_per_token=1, scale=1.0).choose(scores, count=2)
        Chosen(experts=tensor([[2, 3]]), weights=tensor([[0.5000, 0.5000]]))
    """

    num_groups: int = 8
    groups_per_token: int = 4
    scale: float = 2.5

    biased = True
    in_float32 = True

    def __post_init__(self) -> None:
        if not 1 <= self.groups_per_token <= self.num_groups:
            raise ValueError(f"groups_per_token must be in 1 .. {self.num_groups}; got {self.groups_per_token}")

    @override
    def check(self, num_experts: int, count: int) -> None:
        super().check(num_experts, count)
        if num_experts % self.num_groups or num_experts < 2 * self.num_groups:
            raise ValueError(
                f"num_groups={self.num_groups} must divide num_experts={num_experts} into groups of two or more"
            )
        if count > self.groups_per_token * (num_experts // self.num_groups):
            raise ValueError(
                f"experts_per_token={count} are more than the {num_experts // self.num_groups} experts of each of "
                f"groups_per_token={self.groups_per_token} groups"
            )

    @override
    def choose(self, scores: Tensor, count: int, bias: Tensor | None = None) -> Chosen:
        affinity = scores.sigmoid()
        ranked = affinity if bias is None else affinity + bias
        grouped = ranked.unflatten(-1, (self.num_groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(self.groups_per_token, dim=-1, sorted=False).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
        experts = grouped.masked_fill(closed[..., None], float("-inf")).flatten(-2).topk(count, dim=-1).indices
        weights = affinity.gather(-1, experts)
        if count > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + TINY)
        return Chosen(experts, self.scale * weights)
