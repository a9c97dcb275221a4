"""Psi-samplers: between ancestral sampling, which trusts what stands there, and drawing everything anew.

    x_s ~ kappa p(x_s | x_t) + (1 - kappa) q(x_s | x_0 ~ p(x_0 | x_t))

The first part is the reverse step. The second guesses the clean tokens and noises them to the time s. Both have the
same marginals, so any kappa in [0, 1] has them. With kappa below 1 a token may change after it was written; for masks
this is remasking, and ReMDM's sigma is (1 - kappa)(1 - alpha_s).

Reference: Sahoo et al., "The Diffusion Duality, Chapter II: Psi-Samplers and Efficient Curriculum", arXiv 2602.21185.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.process import Process
from llada.samplers.rates.remask import CappedRemasking, Remasking, sigma_max
from llada.samplers.reverse import AncestralSampler


class Kappa(ABC):
    """How far a step trusts what stands on the canvas."""

    @abstractmethod
    def __call__(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        """Kappa of the step from t to s > 0, in [0, 1]; times and result (B,) float64."""


@dataclass(frozen=True)
class ConstantKappa(Kappa):
    """The same in all steps.

    Args:
        value: in [0, 1]; 1 is ancestral sampling.

    Raises:
        ValueError: if it isn't in [0, 1].

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import ConstantKappa, PsiSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = PsiSampler(steps=8, kappa=ConstantKappa(0.95))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 0, 1, 0, 1, 1, 0, 1]])
    """

    value: float = 0.95

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"kappa must be in [0, 1]; got {self.value}")

    @override
    def __call__(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(t, self.value)


@dataclass(frozen=True)
class RemaskingKappa(Kappa):
    """ReMDM's rates for any noise: kappa = 1 - sigma / (1 - alpha_s), for a sigma of at most 1 - alpha_s.

    Args:
        rates: rates whose sigma is a function of alpha: `CappedRemasking`, `RescaledRemasking`,
            `ForwardBackwardRemasking`.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PsiSampler, RemaskingKappa
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = PsiSampler(steps=8, kappa=RemaskingKappa())
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 0, 1, 0, 1, 1, 0, 1]])
    """

    rates: Remasking = field(default_factory=CappedRemasking)

    @override
    def __call__(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        alpha_t, alpha_s = process.schedule.alpha(t), process.schedule.alpha(s)
        sigma = torch.minimum(self.rates.sigma(alpha_t, alpha_s), sigma_max(alpha_t, alpha_s))
        return (1.0 - sigma / process.schedule.mask_probability(s)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Stretches(Kappa):
    """Another kappa while noise is high, in the middle, and while it is low.

    Args:
        high: for steps that begin above ``t_on``.
        middle: for those between.
        low: for those that begin at ``t_off`` or below.
        t_on: where the middle begins.
        t_off: where it ends.

    Raises:
        ValueError: unless 0 <= t_off <= t_on <= 1.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import ConstantKappa, PsiSampler, Stretches
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = PsiSampler(steps=8, kappa=Stretches(middle=ConstantKappa(0.9)))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 0, 1, 0, 1, 1, 0, 1]])
    """

    high: Kappa = field(default_factory=lambda: ConstantKappa(1.0))
    middle: Kappa = field(default_factory=RemaskingKappa)
    low: Kappa = field(default_factory=lambda: ConstantKappa(1.0))
    t_on: float = 0.55
    t_off: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_off <= self.t_on <= 1.0:
            raise ValueError(f"need 0 <= t_off <= t_on <= 1; got t_off={self.t_off} and t_on={self.t_on}")

    @override
    def __call__(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        high, middle, low = (kappa(process, t, s) for kappa in (self.high, self.middle, self.low))
        return torch.where(t > self.t_on, high, torch.where(t > self.t_off, middle, low))


@dataclass(frozen=True)
class PsiSampler(AncestralSampler):
    """Ancestral sampling that also draws anew; for every process. Its last step is the ancestral one.

    Its other arguments are those of `AncestralSampler`.

    Args:
        kappa: how far each step trusts the canvas.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import ConstantKappa, PsiSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = PsiSampler(steps=8, kappa=ConstantKappa(0.95))
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 0, 1, 0, 1, 1, 0, 1]])
    """

    kappa: Kappa = field(default_factory=ConstantKappa, kw_only=True)

    @property
    @override
    def likelihood_gap(self) -> str | None:
        why = "it takes tokens back and writes them again, so that a text is reached in many ways"
        return None if super().likelihood_gap is None else why

    @override
    def amend(self, law: Tensor, process: Process, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        early = (s > 0.0)[:, None, None]
        end = super().amend(law, process, tokens, clean, t, s)
        if not bool(early.any()):
            return end
        kappa = self.kappa(process, t, torch.where(s > 0.0, s, 0.5 * t))[:, None, None]
        guess = process.reverse(tokens, clean, t, torch.zeros_like(s))
        return torch.where(early, kappa * law + (1.0 - kappa) * process.marginal(guess, s), end)
