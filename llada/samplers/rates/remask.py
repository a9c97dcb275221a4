"""ReMDM: written tokens may be masked again, at rates that can leave the marginals of the process as they are.

In a step from t to s a written token is masked again with probability sigma, and a masked one uncovered with
probability

    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),      0 <= sigma <= sigma_max = min(1, (1 - alpha_s) / alpha_t),

so that alpha_s of the tokens are clean at s whatever sigma is. With sigma = 0 this is ancestral sampling. The variants
differ in sigma. Two depart from this: `LoopRemasking` keeps the marginals of an alpha curve of its own, and
`ConfidenceRemasking` uncovers as if sigma were 0 while it takes tokens back, so that fewer than alpha_s are clean at s.

Reference: Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv 2503.00307,
sections 3.1 and 4.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.caches.policy import NoCache
from llada.samplers.rates.rates import Rates
from llada.samplers.state import State


class Remasking(Rates):
    """Rates that take tokens back. A subclass gives sigma."""

    remasks: ClassVar[bool] = True

    @override
    def check(self, sampler: Any) -> None:
        name = type(self).__name__
        if not sampler.amount.by_rates:
            raise ValueError(
                f"{name} masks tokens again, but {type(sampler.amount).__name__} counts on masks only becoming fewer; "
                "use amount=Binomial(steps), whose coins follow the rates"
            )
        if not isinstance(sampler.cache, NoCache):
            raise ValueError(
                f"{name} masks tokens again, whose keys {type(sampler.cache).__name__} would keep; use cache=NoCache()"
            )

    @abstractmethod
    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Probability that a written token is masked again, (B,) float64; it is cut at sigma_max."""

    def alphas(self, state: State) -> tuple[Tensor, Tensor]:
        """alpha_t and alpha_s of the step, (B,) float64 each."""
        schedule = state.process.schedule
        alpha_s = schedule.alpha(state.grid(1)).masked_fill(state.is_last, 1.0)
        return schedule.alpha(state.grid()), alpha_s

    @override
    def time(self, state: State) -> Tensor:
        return state.grid()

    @override
    def unmask(self, state: State) -> Tensor:
        alpha_t, alpha_s = self.alphas(state)
        kept = (1.0 - self._bounded(alpha_t, alpha_s)) * alpha_t
        chance = (alpha_s - kept) / (1.0 - alpha_t)
        return chance.clamp(0.0, 1.0).masked_fill(state.is_last, 1.0)

    @override
    def remask(self, state: State) -> Tensor:
        return self._bounded(*self.alphas(state))[:, None]

    def _bounded(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        return torch.minimum(self.sigma(alpha_t, alpha_s), sigma_max(alpha_t, alpha_s))


def sigma_max(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """The largest sigma for which all probabilities are at most 1, of the shape of both alphas."""
    return ((1.0 - alpha_s) / alpha_t).clamp(max=1.0)


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be in [0, 1]; got {eta}")


@dataclass(frozen=True)
class CappedRemasking(Remasking):
    """sigma = min(eta, sigma_max).

    Args:
        eta: in [0, 1]; 0 is ancestral sampling.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, CappedRemasking, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=32), RandomOrder(), rates=CappedRemasking(eta=0.1))
        >>> steps = list(sampler.iterate(model, torch.full((1, 8), 2), MaskingProcess(2)))
        >>> sum(int((step.changed & step.open).sum()) for step in steps)  # tokens that were taken back
        12
    """

    eta: float = 0.008

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    @override
    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        return torch.full_like(alpha_t, self.eta)


@dataclass(frozen=True)
class RescaledRemasking(Remasking):
    """sigma = eta sigma_max.

    Args:
        eta: in [0, 1]; 0 is ancestral sampling.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, RandomOrder, RescaledRemasking, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=32), RandomOrder(), rates=RescaledRemasking(eta=0.1))
        >>> steps = list(sampler.iterate(model, torch.full((1, 8), 2), MaskingProcess(2)))
        >>> sum(int((step.changed & step.open).sum()) for step in steps)  # tokens that were taken back
        8
    """

    eta: float = 0.015

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    @override
    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        return self.eta * sigma_max(alpha_t, alpha_s)


@dataclass(frozen=True)
class ForwardBackwardRemasking(Remasking):
    """sigma = (alpha_s - alpha_t) / alpha_t: each step goes forward by what it then goes back twice.

    Reference:
        Campbell et al., "A Continuous Time Framework for Discrete Denoising Models", arXiv 2205.14987, section 4.4.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, ForwardBackwardRemasking, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=32), RandomOrder(), rates=ForwardBackwardRemasking())
        >>> steps = list(sampler.iterate(model, torch.full((1, 8), 2), MaskingProcess(2)))
        >>> sum(int((step.changed & step.open).sum()) for step in steps)  # tokens that were taken back
        8
    """

    @override
    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        return (alpha_s - alpha_t) / alpha_t


@dataclass(frozen=True)
class ConfidenceRemasking(Remasking):
    """sigma_i = sigma_max softmax_i(-p_i): tokens that were written with little confidence p_i are doubted most.

    The softmax runs over the written tokens of the row; masked ones are uncovered as in ancestral sampling.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, ConfidenceRemasking, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=32), RandomOrder(), rates=ConfidenceRemasking())
        >>> steps = list(sampler.iterate(model, torch.full((1, 8), 2), MaskingProcess(2)))
        >>> sum(int((step.changed & step.open).sum()) for step in steps)  # tokens that were taken back
        8
    """

    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Zero, (B,): masked tokens are uncovered as if nothing were taken back."""
        return torch.zeros_like(alpha_t)

    @override
    def remask(self, state: State) -> Tensor:
        doubt = (-state.confidence.double()).masked_fill(~state.written, -torch.inf).softmax(1).nan_to_num(0.0)
        return sigma_max(*self.alphas(state))[:, None] * doubt


@dataclass(frozen=True)
class LoopRemasking(Remasking):
    """Plain decoding to a share of clean tokens, then a loop that holds the share and rewrites, then plain to the end.

    From t = 1 to t_on alpha rises from alpha(1) to alpha_on, stays there until t_off with sigma = eta, then rises to 1.

    Args:
        eta: share of the written tokens that a step of the loop takes back.
        t_on: where the loop begins.
        t_off: where it ends.
        alpha_on: clean tokens during the loop.

    Raises:
        ValueError: unless 0 < t_off < t_on < 1, and eta and alpha_on are probabilities.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, LoopRemasking, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=32), RandomOrder(), rates=LoopRemasking())
        >>> steps = list(sampler.iterate(model, torch.full((1, 8), 2), MaskingProcess(2)))
        >>> sum(int((step.changed & step.open).sum()) for step in steps)  # tokens that were taken back
        3
    """

    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        _check_eta(self.eta)
        if not (0.0 < self.t_off < self.t_on < 1.0 and 0.0 < self.alpha_on < 1.0):
            raise ValueError(f"the loop needs 0 < t_off < t_on < 1 and alpha_on in (0, 1); got {self}")

    def sigma(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Eta inside the loop, that is, where alpha doesn't change but for rounding; 0 outside of it; (B,)."""
        return torch.where((alpha_t - alpha_s).abs() < 1e-9, self.eta, 0.0).to(alpha_t)

    @override
    def alphas(self, state: State) -> tuple[Tensor, Tensor]:
        t, s = self._alpha(state, state.grid()), self._alpha(state, state.grid(1))
        return t, s.masked_fill(state.is_last, 1.0)

    def time(self, state: State) -> Tensor:
        """The time at which the process has as large a share of clean tokens, (B,) float64."""
        return state.process.schedule.time_at(1.0 - self._alpha(state, state.grid()))

    def _alpha(self, state: State, t: Tensor) -> Tensor:
        alpha = state.process.schedule.alpha
        before = self.alpha_on * alpha(((t - self.t_on) / (1.0 - self.t_on)).clamp(0.0, 1.0))
        after = 1.0 - (1.0 - self.alpha_on) * (1.0 - alpha((t / self.t_off).clamp(0.0, 1.0)))
        held = torch.full_like(t, self.alpha_on)
        return torch.where(t > self.t_on, before, torch.where(t > self.t_off, held, after))
