"""Guidance by a classifier: what makes a label likelier, at every step, for any noise.

    log p(x_s^i = v | x_t, y) = log p(x_s^i = v | x_t) + gamma log p(y | x_t with v at position i) + const

It is Bayes' rule for a step that changes one position; steps that change several treat their ratios as independent,
which is exact as steps get short. The exact form asks the classifier about every token at every position that may
change. The first-order form asks once, for the gradient with respect to one-hot rows:

    log p(y | x_t with v at i)  ~  log p(y | x_t) + (e_v - e_z) . grad_i log p(y | x_t)

with z the token that stands there.

Shapes: B rows, L columns, M candidates per row, V states of the step's law, N rows for the classifier.

Reference: Schiff et al., "Simple Guidance Mechanisms for Discrete Diffusion Models", arXiv 2412.10193, section 3.2;
Nisonoff et al., arXiv 2406.01572.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.samplers.part import Part
from llada.samplers.state import State


class Classifier(Part, ABC):
    """The log-probability of a label, y, that is wanted, given noised text."""

    @abstractmethod
    def __call__(self, tokens: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The log-probability of the label in every row.

        Args:
            tokens: x_t, (N, L) int64.
            t: (N,) float64, the time of the noise.
            attention_mask: (N, L) bool, true for real tokens; None: all.

        Returns:
            (N,), nats.
        """

    def of_weights(self, weights: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The same for rows of weights over the vocabulary, differentiable; only `GradientGuidance` asks for it.

        Args:
            weights: (N, L, V) float32, one-hot rows.
            t: (N,) float64.
            attention_mask: (N, L) bool, true for real tokens; None: all.
        """
        raise ValueError(
            f"{type(self).__name__} has no of_weights, which GradientGuidance differentiates; write it, or use "
            "ClassifierGuidance, which asks about every token"
        )


@dataclass(frozen=True)
class LawGuidance(Part, ABC):
    """What is added to the log-law of a step.

    Args:
        classifier: of the label that is wanted.
        scale: gamma; 1 is Bayes' rule, 0 no guidance.
    """

    classifier: Classifier
    scale: float = 1.0

    @abstractmethod
    def __call__(self, state: State, possible: Tensor, s: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Nats to be added, up to a constant per position.

        Args:
            state: the canvas and its candidates.
            possible: (B, M, V) bool, the tokens that the step may write.
            s: (B,) float64, the time that is stepped to.
            attention_mask: (B, L) bool or 0/1; None: all real.

        Returns:
            (B, M, V) float64.
        """


@dataclass(frozen=True)
class ClassifierGuidance(LawGuidance):
    """The exact ratios: the classifier sees a row for every token that a candidate may become.

    Args:
        classifier: of the label that is wanted.
        scale: gamma.
        rows_per_call: most rows that it gets at once.

    Raises:
        ValueError: if ``rows_per_call`` is less than 1.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AncestralSampler, Classifier, ClassifierGuidance
        >>> class Ones(Classifier):  # any network of noised text
        ...     def __call__(self, tokens, t, attention_mask=None):
        ...         return (tokens == 1).sum(1) / 2
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)
        >>> sampler = AncestralSampler(steps=8, classifier=ClassifierGuidance(Ones(), scale=8.0))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    rows_per_call: int = 1024

    def __post_init__(self) -> None:
        if self.rows_per_call < 1:
            raise ValueError(f"rows_per_call must be 1 or more; got {self.rows_per_call}")

    @override
    def __call__(self, state: State, possible: Tensor, s: Tensor, attention_mask: Tensor | None) -> Tensor:
        open_ = state.valid & (possible.sum(-1) > 1)  # elsewhere nothing is to be decided
        row, entry, token = (possible & open_[..., None]).nonzero(as_tuple=True)
        column, values = state.columns[row, entry], []
        for start in range(0, len(row), self.rows_per_call):
            some = slice(start, start + self.rows_per_call)
            rows = state.tokens[row[some]].scatter(1, column[some, None], token[some, None])
            mask = None if attention_mask is None else attention_mask.bool()[row[some]]
            values.append(self.classifier(rows, s[row[some]], mask).double())
        hint = torch.zeros(possible.shape, dtype=torch.float64, device=possible.device)
        if values:
            hint[row, entry, token] = self.scale * torch.cat(values)
        return hint


@dataclass(frozen=True)
class GradientGuidance(LawGuidance):
    """The first-order ratios: one forward and one backward pass of the classifier. Arguments as of `LawGuidance`.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AncestralSampler, Classifier, GradientGuidance
        >>> class Ones(Classifier):  # any network of noised text
        ...     def __call__(self, tokens, t, attention_mask=None):
        ...         return (tokens == 1).sum(1) / 2
        ...     def of_weights(self, weights, t, attention_mask=None):
        ...         return weights[:, :, 1].sum(1) / 2
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)
        >>> sampler = AncestralSampler(steps=8, classifier=GradientGuidance(Ones(), scale=8.0))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    @override
    def __call__(self, state: State, possible: Tensor, s: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = None if attention_mask is None else attention_mask.bool()
        with torch.inference_mode(False), torch.enable_grad():
            weights = F.one_hot(state.tokens.clone(), possible.shape[-1]).float().requires_grad_()
            total = self.classifier.of_weights(weights, s.clone(), None if mask is None else mask.clone()).sum()
            (slope,) = torch.autograd.grad(total, weights)
        index = state.columns[..., None].expand(-1, -1, slope.shape[-1])
        return self.scale * slope.gather(1, index).double()
