"""Links: what a pair of answers costs, as a function of what the model and the reference say of them.

    d+ = B(y+) - B_ref(y+)      d- = B(y-) - B_ref(y-)      margin = d+ - d-

for a chosen answer y+ and a rejected answer y- to one prompt, where B = -NELBO is the bound on log p(answer | prompt)
in nats, summed over the answer's tokens (exact for autoregressive models). Every link is a function of one pair, so
that the loss doesn't depend on how pairs are dealt to batches, accumulation steps and ranks.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True)
class PairBounds:
    """What is known of P pairs; (P,) float64, or (n, P) for the estimates of n draws.

    Attributes:
        chosen: B(y+), nats.
        rejected: B(y-), nats.
        reference_chosen: B_ref(y+); 0 without a reference.
        reference_rejected: B_ref(y-); likewise.
        chosen_tokens: tokens of y+.
        rejected_tokens: tokens of y-.

    Examples:
        >>> import torch
        >>> from llada.objectives import PairBounds
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> pairs = PairBounds(*numbers)
        >>> pairs.chosen_gain, pairs.rejected_gain
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_gain(self) -> Tensor:
        """d+ = B(chosen) - B_ref(chosen), nats: how much likelier the chosen answer has become."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_gain(self) -> Tensor:
        """d-, nats: the same of the rejected answer."""
        return self.rejected - self.reference_rejected

    def mean(self) -> "PairBounds":
        """Estimates by all draws, (P,)."""
        return PairBounds(
            self.chosen.mean(0),
            self.rejected.mean(0),
            self.reference_chosen.mean(0),
            self.reference_rejected.mean(0),
            self.chosen_tokens,
            self.rejected_tokens,
        )


class Link(ABC):
    """Turns pairs into losses."""

    needs_reference = True
    """Whether the loss compares with a reference model."""

    @abstractmethod
    def __call__(self, pairs: PairBounds) -> Tensor:
        """The loss of each pair, (P,), differentiable.

        Args:
            pairs: bounds of model and reference.
        """

    def margin(self, pairs: PairBounds) -> Tensor:
        """By how much the chosen answer is preferred, (P,); what is reported, without the link's scale."""
        return pairs.chosen_gain - pairs.rejected_gain


@dataclass(frozen=True)
class Sigmoid(Link):
    """DPO's: the negative log-likelihood of the preference, -log sigmoid(beta margin).

    Args:
        beta: scale, per nat.
        label_smoothing: share of pairs that are taken to be labelled the wrong way round, in [0, 0.5): conservative
            DPO.

    Raises:
        ValueError: if ``beta`` isn't above 0 or ``label_smoothing`` isn't in [0, 0.5).

    Reference:
        Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, equation 7; with bounds of a diffusion
        model Zhu et al., "LLaDA 1.5", arXiv 2505.19223 (beta 0.2).

    Examples:
        >>> import torch
        >>> from llada.objectives import PairBounds, Sigmoid
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> Sigmoid(beta=0.2)(PairBounds(*numbers))
        tensor([0.5130], dtype=torch.float64)
    """

    beta: float = 0.2
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(beta=self.beta)
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5); got {self.label_smoothing}")

    @override
    def __call__(self, pairs: PairBounds) -> Tensor:
        s, wrong = self.beta * self.margin(pairs), self.label_smoothing
        return (1.0 - wrong) * F.softplus(-s) + wrong * F.softplus(s)


@dataclass(frozen=True)
class IPO(Link):
    """A margin of 1 / (2 beta) is aimed at, and no more: (margin - 1 / (2 beta))^2.

    Args:
        beta: strength of the pull to the reference, per nat.

    Raises:
        ValueError: if ``beta`` isn't above 0.

    Reference:
        Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv 2310.12036,
        equation 17.

    Examples:
        >>> import torch
        >>> from llada.objectives import IPO, PairBounds
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> IPO(beta=0.1)(PairBounds(*numbers))
        tensor([9.], dtype=torch.float64)
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        _check_positive(beta=self.beta)

    @override
    def __call__(self, pairs: PairBounds) -> Tensor:
        return (self.margin(pairs) - 0.5 / self.beta).square()


@dataclass(frozen=True)
class Hinge(Link):
    """Pairs count until their scaled margin is 1: max(0, 1 - beta margin).

    Args:
        beta: scale, per nat.

    Raises:
        ValueError: if ``beta`` isn't above 0.

    Reference:
        Zhao et al., "SLiC-HF", arXiv 2305.10425; in this form Liu et al., "Statistical Rejection Sampling Improves
        Preference Optimization", arXiv 2309.06657.

    Examples:
        >>> import torch
        >>> from llada.objectives import Hinge, PairBounds
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> Hinge(beta=0.2)(PairBounds(*numbers))
        tensor([0.6000], dtype=torch.float64)
    """

    beta: float = 0.2

    def __post_init__(self) -> None:
        _check_positive(beta=self.beta)

    @override
    def __call__(self, pairs: PairBounds) -> Tensor:
        return F.relu(1.0 - self.beta * self.margin(pairs))


@dataclass(frozen=True)
class KTO(Link):
    """Either answer is judged by itself against a fixed point, as desirable or undesirable.

        chosen_weight (1 - sigmoid(beta (d+ - z))) + rejected_weight (1 - sigmoid(beta (z - d-)))

    In the paper z is the divergence from the reference, estimated from the other rows of a batch; here it is a number,
    so that the loss of a pair doesn't depend on its neighbours. ``train/preference_kl`` tells a good one.

    Args:
        beta: scale, per nat.
        reference_point: z, nats.
        chosen_weight: of desirable answers.
        rejected_weight: of undesirable ones.

    Raises:
        ValueError: if ``beta`` isn't above 0, or a weight is negative.

    Reference:
        Ethayarajh et al., "KTO", arXiv 2402.01306, equation 8.

    Examples:
        >>> import torch
        >>> from llada.objectives import KTO, PairBounds
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> KTO(beta=0.2, rejected_weight=1.3)(PairBounds(*numbers))
        tensor([1.0354], dtype=torch.float64)
    """

    beta: float = 0.2
    reference_point: float = 0.0
    chosen_weight: float = 1.0
    rejected_weight: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(beta=self.beta)
        if min(self.chosen_weight, self.rejected_weight) < 0.0:
            raise ValueError(f"weights must be 0 or more; got {self.chosen_weight} and {self.rejected_weight}")

    @override
    def __call__(self, pairs: PairBounds) -> Tensor:
        z = self.reference_point
        desirable = torch.sigmoid(self.beta * (z - pairs.chosen_gain))
        undesirable = torch.sigmoid(self.beta * (pairs.rejected_gain - z))
        return self.chosen_weight * desirable + self.rejected_weight * undesirable


@dataclass(frozen=True)
class SimPO(Link):
    """Nats per token instead of a reference: -log sigmoid(beta (B(y+) / n+ - B(y-) / n-) - gamma).

    Args:
        beta: scale, tokens per nat.
        gamma: what the scaled margin has to exceed.

    Raises:
        ValueError: if ``beta`` isn't above 0.

    Reference:
        Meng et al., "SimPO", arXiv 2405.14734, equation 6.

    Examples:
        >>> import torch
        >>> from llada.objectives import PairBounds, SimPO
        >>> numbers = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -12.0, -10.0, -11.0, 8.0, 8.0)]
        >>> SimPO(beta=2.0, gamma=1.0)(PairBounds(*numbers))
        tensor([0.8259], dtype=torch.float64)
    """

    beta: float = 2.0
    gamma: float = 1.0
    needs_reference = False

    def __post_init__(self) -> None:
        _check_positive(beta=self.beta)

    @override
    def __call__(self, pairs: PairBounds) -> Tensor:
        return F.softplus(self.gamma - self.beta * self.margin(pairs))

    @override
    def margin(self, pairs: PairBounds) -> Tensor:
        return pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0.0:
            raise ValueError(f"{name} must be above 0; got {value}")
