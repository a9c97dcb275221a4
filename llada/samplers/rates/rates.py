"""How fast the reverse process runs: where a step stands in time, and how likely a masked token is uncovered in it.

On a grid of K equal steps from t = 1 to 0, step k goes from t to s, and by the process's schedule a masked token is
uncovered with probability

    (alpha_s - alpha_t) / (1 - alpha_t).

Shapes: B rows, L columns of the canvas.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom


@dataclass(frozen=True)
class Progress:
    """Where a step stands in its window.

    Attributes:
        step: index of the step, from 0.
        num_steps: (B,) int64, steps that each row was given for the window; None if it goes on until no mask is left.
        initial: (B,) int64, masks in the window when it was opened.
        left: (B,) int64, masks in the window now.
        process: owner of the schedule.
        rates: how fast the reverse process runs.
        random: the rows' streams for this window, the same at every step.
    """

    step: int
    num_steps: Tensor | None
    initial: Tensor
    left: Tensor
    process: MaskingProcess
    rates: "Rates"
    random: RowRandom

    def grid(self, ahead: int = 0) -> Tensor:
        """1 - k / K, (B,) float64: 1 at the first step, 0 after the last. Without K the share of masks that are left.

        Args:
            ahead: 0 for the time at which the step begins, 1 for that at which it ends.
        """
        if self.num_steps is None:
            return self.left.double() / self.initial.clamp(min=1)
        return (1.0 - (self.step + ahead) / self.num_steps.double().clamp(min=1)).clamp(min=0.0)

    @property
    def is_last(self) -> Tensor:
        """(B,) bool, whether nothing may be masked after this step."""
        if self.num_steps is None:
            return torch.zeros_like(self.initial, dtype=torch.bool)
        return self.num_steps <= self.step + 1


class Rates(ABC):
    """The speed of the reverse process."""

    remasks: ClassVar[bool] = False
    """Whether written tokens may be masked again."""
    one_by_one: ClassVar[bool] = False
    """Whether it tells the times of single tokens, so that a step must write exactly one."""

    @abstractmethod
    def time(self, progress: Progress) -> Tensor:
        """The time that a time-conditioned model is told, (B,) float64."""

    @abstractmethod
    def unmask(self, progress: Progress) -> Tensor:
        """Probability that a masked token is uncovered in this step, (B,) float64; 1 in the last."""

    def remask(self, progress: Progress, written: Tensor, confidence: Tensor) -> Tensor:
        """Probability that a token is masked again.

        Args:
            progress: where the step stands.
            written: (B, L) bool, tokens that earlier steps wrote.
            confidence: (B, L) float32, the probability that each of them had when it was written.

        Returns:
            Broadcasts to (B, L) float64.
        """
        return torch.zeros(1, 1, dtype=torch.float64, device=written.device)


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
    """

    t_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < 1.0:
            raise ValueError(f"t_min must be in [0, 1); got {self.t_min}")

    def time(self, progress: Progress) -> Tensor:
        """See `Rates`."""
        return self._at(progress, 0)

    def unmask(self, progress: Progress) -> Tensor:
        """See `Rates`."""
        chance = progress.process.schedule.unmask_probability(self._at(progress, 0), self._at(progress, 1))
        return chance.masked_fill(progress.is_last, 1.0)

    def _at(self, progress: Progress, ahead: int) -> Tensor:
        return self.t_min + (1.0 - self.t_min) * progress.grid(ahead)


@dataclass(frozen=True)
class TauLeaping(Rates):
    """SEDD's Euler steps: the rate at t, -alpha'_t / (1 - alpha_t), held for the whole step.

    Equal to `Ancestral` under the linear schedule, and in the limit of many steps under every other. The last step
    uncovers all that is left (SEDD's denoising step).

    Reference:
        Lou et al., arXiv 2310.16834, section 4.1; Campbell et al., "A Continuous Time Framework for Discrete Denoising
        Models", arXiv 2205.14987, section 4.3.
    """

    def time(self, progress: Progress) -> Tensor:
        """See `Rates`."""
        return progress.grid()

    def unmask(self, progress: Progress) -> Tensor:
        """See `Rates`."""
        t, s = progress.grid(), progress.grid(1)
        chance = (progress.process.schedule.loss_weight(t.clamp(min=1e-12)) * (t - s)).clamp(max=1.0)
        return chance.masked_fill(progress.is_last, 1.0)


@dataclass(frozen=True)
class FirstHitting(Rates):
    """The exact times of the jumps: with n masks left, the next one falls at the mask probability q U^(1/n), U uniform.

    For one token per step in random order. There is no grid and so no error of it; only a time-conditioned model can
    tell the difference from any other random order.

    Reference:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models", arXiv 2409.02908.
    """

    one_by_one: ClassVar[bool] = True

    def time(self, progress: Progress) -> Tensor:
        """See `Rates`."""
        schedule, k = progress.process.schedule, progress.step
        masks = progress.initial[:, None] - torch.arange(k + 1, device=progress.initial.device)
        logs = progress.random.uniform(k + 1).log() / masks.clamp(min=1)
        start = schedule.mask_probability(torch.ones_like(logs[:, 0]))
        return schedule.time_at(start * logs.sum(1).exp())

    def unmask(self, progress: Progress) -> Tensor:
        """See `Rates`; jumps come one by one."""
        return 1.0 / progress.left.clamp(min=1).double()
