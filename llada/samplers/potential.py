"""What a text is worth, in nats: potentials by which samples are steered.

A potential r turns the model's law p(x) into p(x) exp(r(x)) / Z. Potentials add up.

Reference: Singhal et al., "A General Framework for Inference-time Scaling and Steering of Diffusion Models",
arXiv 2501.06848.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.classifier import Classifier
from llada.samplers.part import Part
from llada.samplers.stopping import is_stop


class Potential(Part, ABC):
    """Judges finished texts."""

    @abstractmethod
    def __call__(self, tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The log of the factor by which each text is preferred.

        Args:
            tokens: (N, L) int64, a token at every position.
            given: (N, L) bool, the positions that weren't generated: prompt and padding.
            attention_mask: (N, L) bool, true for real tokens; None: all. It also hides the blocks that a sampler hasn't
                begun, which hold noise.

        Returns:
            (N,), nats; minus infinity for a text that mustn't be.
        """


@dataclass(frozen=True)
class TokenPotential(Potential):
    """Counts some tokens of the generated text.

    Args:
        token_ids: the tokens.
        nats: potential of each; below 0 to avoid them.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import ParticleSampler, TokenPotential
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)
        >>> sampler = ParticleSampler(TokenPotential((1,), nats=-4.0), particles=8)  # rather without token 1
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[0, 1, 0, 1, 0, 0, 1, 0]])
    """

    token_ids: tuple[int, ...]
    nats: float = 1.0

    @override
    def __call__(self, tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.nats * (is_stop(tokens, self.token_ids) & ~given).sum(1).double()


@dataclass(frozen=True)
class ClassifierPotential(Potential):
    """log p(y | x) of a label, so that texts follow p(x | y), and their evidence is p(y).

    Args:
        classifier: of the label; asked at time 0.
        scale: of the log-probability.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Classifier, ClassifierPotential, ParticleSampler
        >>> class Ones(Classifier):  # any network of clean text
        ...     def __call__(self, tokens, t, attention_mask=None):
        ...         return 4.0 * (tokens == 1).sum(1) - 32.0
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)
        >>> sampler = ParticleSampler(ClassifierPotential(Ones()), particles=8)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 0, 1, 1, 1, 1, 1]])
    """

    classifier: Classifier
    scale: float = 1.0

    @override
    def __call__(self, tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        clean = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        return self.scale * self.classifier(tokens, clean, attention_mask).double()


@dataclass(frozen=True)
class TotalPotential(Potential):
    """The sum of several potentials.

    Args:
        potentials: at least one.

    Raises:
        ValueError: if there is none.

    Examples:
        >>> import torch
        >>> from llada.samplers import ParticleSampler, TokenPotential, TotalPotential
        >>> wishes = TotalPotential((TokenPotential((1,), nats=2.0), TokenPotential((5, 6), nats=-1.0)))
        >>> wishes(torch.tensor([[1, 5, 0], [1, 1, 3]]), given=torch.zeros(2, 3, dtype=torch.bool)).tolist()
        [1.0, 4.0]
        >>> sampler = ParticleSampler(wishes, particles=8)
    """

    potentials: tuple[Potential, ...]

    def __post_init__(self) -> None:
        if not self.potentials:
            raise ValueError("a total potential needs one potential at least; got none")

    @override
    def __call__(self, tokens: Tensor, given: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.stack([potential(tokens, given, attention_mask).double() for potential in self.potentials]).sum(0)
