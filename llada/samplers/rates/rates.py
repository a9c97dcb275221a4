"""How fast the reverse process runs: where a step stands in time, and how likely a masked token is uncovered in it.

On a grid of K equal steps from t = 1 to 0, step k goes from t to s, and by the process's schedule a masked token is
uncovered with probability

    (alpha_s - alpha_t) / (1 - alpha_t).

Shapes: B rows, L columns of the canvas.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.amount.quota import PerStep
from llada.samplers.part import Part
from llada.samplers.state import State


class Rates(Part, ABC):
    """The speed of the reverse process."""

    remasks: ClassVar[bool] = False
    """Whether written tokens may be masked again."""

    @abstractmethod
    def time(self, state: State) -> Tensor:
        """The time that a time-conditioned model is told, (B,) float64."""

    @abstractmethod
    def unmask(self, state: State) -> Tensor:
        """Probability that a masked token is uncovered in this step, (B,) float64; 1 in the last."""

    def remask(self, state: State) -> Tensor:
        """Probability that a token is masked again.

        Args:
            state: the step; ``state.written`` (B, L) are the tokens that earlier steps wrote in the window, and
                ``state.confidence`` (B, L) the probability that each of them had when it was written.

        Returns:
            Broadcasts to (B, L) float64.
        """
        return torch.zeros(1, 1, dtype=torch.float64, device=state.tokens.device)


@dataclass(frozen=True)
class Ancestral(Rates):
    """The exact reversal between two times.

    It is also the analytic sampler of SEDD (Tweedie tau-leaping): with the score of a masked token,
    p(v) alpha_t / (1 - alpha_t), that sampler's probabilities are these.

    Args:
        t_min: where the grid ends; its last step uncovers all that is left. Dream's ``origin`` has 1e-3, others 0.

    Reference:
        Sahoo et al., arXiv 2406.07524, equation 7; Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios
        of the Data Distribution", arXiv 2310.16834, section 4.1.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Ancestral, Binomial, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=4), RandomOrder(), rates=Ancestral())
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    reads_drawn: ClassVar[bool] = False
    t_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < 1.0:
            raise ValueError(f"t_min must be in [0, 1); got {self.t_min}")

    @override
    def time(self, state: State) -> Tensor:
        return self._at(state, 0)

    @override
    def unmask(self, state: State) -> Tensor:
        chance = state.process.schedule.unmask_probability(self._at(state, 0), self._at(state, 1))
        return chance.masked_fill(state.is_last, 1.0)

    def _at(self, state: State, ahead: int) -> Tensor:
        return self.t_min + (1.0 - self.t_min) * state.grid(ahead)


@dataclass(frozen=True)
class TauLeaping(Rates):
    """SEDD's Euler steps: the rate at t, -alpha'_t / (1 - alpha_t), held for the whole step.

    Equal to `Ancestral` under the linear schedule, and in the limit of many steps under every other. The last step
    uncovers all that is left (SEDD's denoising step).

    Reference:
        Lou et al., arXiv 2310.16834, section 4.1; Campbell et al., "A Continuous Time Framework for Discrete Denoising
        Models", arXiv 2205.14987, section 4.3.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, RandomOrder, TauLeaping, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=4), RandomOrder(), rates=TauLeaping())
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    reads_drawn: ClassVar[bool] = False

    @override
    def time(self, state: State) -> Tensor:
        return state.grid()

    @override
    def unmask(self, state: State) -> Tensor:
        t, s = state.grid(), state.grid(1)
        chance = (state.process.schedule.loss_weight(t.clamp(min=1e-12)) * (t - s)).clamp(max=1.0)
        return chance.masked_fill(state.is_last, 1.0)


@dataclass(frozen=True)
class FirstHitting(Rates):
    """The exact times of the jumps: with n masks left, the next one falls at the mask probability q U^(1/n), U uniform.

    For one token per step in random order. There is no grid and so no error of it; only a time-conditioned model can
    tell the difference from any other random order.

    Reference:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models", arXiv 2409.02908.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import FirstHitting, PerStep, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(PerStep(1), RandomOrder(), rates=FirstHitting())
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).calls
        tensor([8])
    """

    reads_drawn: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True

    @override
    def check(self, sampler: Any) -> None:
        if not (isinstance(sampler.amount, PerStep) and sampler.amount.count == 1):
            raise ValueError(
                f"{type(self).__name__} tells the time of every single token, but {type(sampler.amount).__name__} may "
                "write several in a step; use amount=PerStep(1), or rates=Ancestral()"
            )

    @override
    def time(self, state: State) -> Tensor:
        schedule, k = state.process.schedule, state.step
        masks = state.initial[:, None] - torch.arange(k + 1, device=state.initial.device)
        logs = state.window_random.uniform(k + 1).log() / masks.clamp(min=1)
        start = schedule.mask_probability(torch.ones_like(logs[:, 0]))
        return schedule.time_at(start * logs.sum(1).exp())

    def unmask(self, state: State) -> Tensor:
        """One over the number of open positions, (B,): jumps come one by one, and each position is as likely."""
        return 1.0 / state.left.clamp(min=1).double()
