"""Which position first: an order gives every candidate a score, and the highest scores are written first."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.part import Part
from llada.samplers.propose import suppress
from llada.samplers.state import State, token_probability


class Measure(Enum):
    """What the scores of an order are numbers of; some amounts need to know."""

    RANK = "only their order has a meaning"
    PROBABILITY = "probabilities"
    NEGATIVE_ENTROPY = "negative entropies in nats"


class Order(Part, ABC):
    """Scores candidates from what the model proposed there."""

    blind: ClassVar[bool] = False
    """Whether it never looks at the model's answers, so that the model is run only where a token is to be written."""

    @property
    def measure(self) -> Measure:
        """What the scores are. An order of your own may say ``measure = Measure.PROBABILITY``."""
        return Measure.RANK

    @abstractmethod
    def __call__(self, state: State) -> Tensor:
        """Score the candidates.

        Args:
            state: the step. ``state.positions`` (B, M) are where the candidates stand, ``state.logits`` (B, M, V) the
                model's answers, ``state.drawn`` (B, M) the proposed tokens; a blind order sees the first alone.

        Returns:
            (B, M) float; the highest are written first.
        """


@dataclass(frozen=True)
class Confidence(Order):
    """The probability of the proposed token: LLaDA's low-confidence remasking, MaskGIT.

    Args:
        filtered: use the probabilities after temperature, top-p and top-k (Dream) instead of the model's own (LLaDA).
        without: tokens left out of the softmax. A position that proposes one of them has confidence 0. This is what
            LLaDA's ``confidence_eos_eot_inf`` computes at temperature 0.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Confidence, PerStep, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), Confidence())
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [1, 2, 0, 3]
    """

    filtered: bool = False
    without: tuple[int, ...] = ()

    @property
    @override
    def measure(self) -> Measure:
        return Measure.PROBABILITY

    @override
    def __call__(self, state: State) -> Tensor:
        if not self.filtered and not self.without:
            return state.probability
        logits = state.filtered if self.filtered else state.logits
        return token_probability(suppress(logits, self.without) if self.without else logits, state.drawn)


@dataclass(frozen=True)
class OfTheLaw(Order):
    """Scores the law that a token is drawn from, whichever token that is.

    Args:
        filtered: use the probabilities after temperature, top-p and top-k instead of the model's own.
    """

    reads_drawn: ClassVar[bool] = False
    filtered: bool = False

    @property
    @override
    def measure(self) -> Measure:
        return Measure.PROBABILITY

    def law(self, state: State) -> Tensor:
        """The logits of it, (B, M, V)."""
        return state.filtered if self.filtered else state.logits


@dataclass(frozen=True)
class TopProb(OfTheLaw):
    """The probability of the most likely token, max_v p_v, whichever token is drawn.

    At temperature 0 it is `Confidence`. At others a text keeps a likelihood under it, since no position depends on a
    draw that may still be thrown away.

    Args:
        filtered: use the probabilities after temperature, top-p and top-k instead of the model's own.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, Proposal, TopProb, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(temperature=1.0))
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2), seed=1)
        >>> [int(step.changed[0].nonzero()) for step in steps]  # whatever is drawn
        [1, 2, 0, 3]
    """

    @override
    def __call__(self, state: State) -> Tensor:
        return self.law(state).softmax(-1).amax(-1)


@dataclass(frozen=True)
class Margin(OfTheLaw):
    """How far the most likely token is ahead of the second: p(1) - p(2).

    Args:
        filtered: use the probabilities after temperature, top-p and top-k instead of the model's own.

    Reference:
        Kim et al., "Train for the Worst, Plan for the Best", arXiv 2502.06768, section 4.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Margin, PerStep, UnmaskingSampler
        >>> shares = torch.tensor([[0.50, 0.45, 0.05], [0.48, 0.26, 0.26]])  # at the first place two tokens vie
        >>> model = lambda tokens: torch.nn.functional.pad(shares.log(), (0, 1), value=-99.0)[None]
        >>> sampler = UnmaskingSampler(PerStep(1), Margin())
        >>> steps = sampler.iterate(model, torch.full((1, 2), 3), MaskingProcess(3))
        >>> [int(step.changed[0].nonzero()) for step in steps]  # TopProb begins with the first
        [1, 0]
    """

    @override
    def __call__(self, state: State) -> Tensor:
        best = self.law(state).softmax(-1).topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]


@dataclass(frozen=True)
class NegativeEntropy(OfTheLaw):
    """sum_v p_v log p_v: the most certain distribution first.

    Args:
        filtered: use the probabilities after temperature, top-p and top-k instead of the model's own.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import NegativeEntropy, PerStep, UnmaskingSampler
        >>> shares = torch.tensor([[0.60, 0.20, 0.20], [0.50, 0.49, 0.01]])  # at the second place it is one of two
        >>> model = lambda tokens: torch.nn.functional.pad(shares.log(), (0, 1), value=-99.0)[None]
        >>> sampler = UnmaskingSampler(PerStep(1), NegativeEntropy())
        >>> steps = sampler.iterate(model, torch.full((1, 2), 3), MaskingProcess(3))
        >>> [int(step.changed[0].nonzero()) for step in steps]  # TopProb begins with the first
        [1, 0]
    """

    @property
    @override
    def measure(self) -> Measure:
        return Measure.NEGATIVE_ENTROPY

    @override
    def __call__(self, state: State) -> Tensor:
        log_p = self.law(state).log_softmax(-1)
        return (log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


@dataclass(frozen=True)
class RandomOrder(Order):
    """Every order is equally likely.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, RandomOrder, UnmaskingSampler
        >>> sampler, canvas = UnmaskingSampler(PerStep(1), RandomOrder()), torch.full((2, 4), 3)
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> steps = sampler.iterate(model, canvas, MaskingProcess(3), seed=torch.tensor([0, 1]))
        >>> torch.stack([step.changed.int().argmax(1) for step in steps], 1).tolist()  # an order for each seed
        [[1, 2, 0, 3], [2, 0, 1, 3]]
    """

    reads_drawn: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True
    blind: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        return state.random.uniform_at(state.positions)


@dataclass(frozen=True)
class LeftToRight(Order):
    """From the first position to the last, as an autoregressive model writes.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import LeftToRight, PerStep, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), LeftToRight())
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [0, 1, 2, 3]
    """

    reads_drawn: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        return -state.positions.double()
