"""The bound of a diffusion that runs in T steps instead of continuously.

    -log p(x_0) <= E_{k ~ U{1..T}} [ T (alpha(s) - alpha(t)) / (1 - alpha(t)) sum_{i masked} -log p_theta(x_0^i | x_t) ]

with t = k / T and s = (k - 1) / T. As T grows it tends to the continuous-time bound; for the linear schedule the weight
is 1/t for any T. Its use is to train for just the T noise levels that a sampler of T steps will show the network.

Reference: Sahoo et al., arXiv 2406.07524, equation 8 (the bound before its continuous-time limit); Austin et al.,
"Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv 2107.03006.
"""

from dataclasses import dataclass, field

from torch import Tensor

from llada.noise import NoiseSchedule, StratifiedTimes, TimeSampler
from llada.objectives.nelbo import MaskedNELBO
from llada.objectives.objective import Objective
from llada.objectives.weight import Weight
from llada.random import RowRandom


@dataclass(frozen=True)
class GridTimes(TimeSampler):
    """Times of another sampler, each moved up to the end of its step: (floor(t T) + 1) / T.

    Args:
        num_steps: T.
        times: draws the times that are moved; over all of (0, 1] for the bound.

    Raises:
        ValueError: if ``num_steps`` is less than 1.
    """

    num_steps: int
    times: TimeSampler = field(default_factory=StratifiedTimes)

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)

    def __call__(self, random: RowRandom) -> Tensor:
        """See `TimeSampler`."""
        step = (self.times(random) * self.num_steps).floor() + 1
        return step.clamp(max=self.num_steps) / self.num_steps


@dataclass(frozen=True)
class DiscreteWeight(Weight):
    """T times the probability that a token masked at t is uncovered in the step from t to t - 1/T.

    Use it with times from `GridTimes` of as many steps.

    Args:
        num_steps: T.

    Raises:
        ValueError: if ``num_steps`` is less than 1.
    """

    num_steps: int

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)

    def __call__(self, schedule: NoiseSchedule, t: Tensor, masked: Tensor) -> Tensor:
        """See `Weight`."""
        s = (t - 1 / self.num_steps).clamp(min=0.0)
        return self.num_steps * schedule.unmask_probability(t, s)


def discrete_time(num_steps: int) -> Objective:
    """The T-step bound as a loss, per token. The reported ``nelbo`` keeps the continuous-time weight, on the same grid.

    Args:
        num_steps: T.
    """
    return MaskedNELBO(GridTimes(num_steps), DiscreteWeight(num_steps))


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be 1 or more; got {num_steps}")
