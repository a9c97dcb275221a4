"""Uniform noise as the arg max of Gaussian noise: the curve alpha that belongs to a signal-to-noise ratio.

Of K numbers g_y ~ N(0, 1), of which that of the clean token gets the ratio r added, the largest one's index is

    the clean token with probability P(r) = E_s[ Phi(s + r)^(K - 1) ],  s ~ N(0, 1),

and any other one as likely as the next. So it is a token under uniform noise with alpha = (K P - 1) / (K - 1). The
expectation is a sum over an even grid, which for such smooth functions is exact to the last digits of a float64.

Reference: Sahoo et al., "The Diffusion Duality", arXiv 2506.10892, section 3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.noise.schedule import NoiseSchedule

STEP, REACH = 1.0 / 16.0, 10.0
"""Distance of the grid's points, and where they end: beyond there is less than 1e-22."""


@dataclass(frozen=True)
class ArgmaxSchedule(NoiseSchedule):
    """Duo's curve: alpha of uniform noise whose Gaussian has the log-noise ratio g(t), rising evenly with the time.

    r = exp(-g / 2) with g from ``start`` to ``end``. It leaves noise at t = 0 and signal at t = 1, see `NoiseSchedule`;
    `RescaledSchedule` stretches it.

    Args:
        num_tokens: K.
        start: g(0); Duo: -3.5.
        end: g(1), above ``start``; Duo: -1.75.

    Raises:
        ValueError: if ``num_tokens`` is less than 2, or ``end`` isn't above ``start``.

    Examples:
        >>> import torch
        >>> from llada.noise import ArgmaxSchedule
        >>> ArgmaxSchedule(num_tokens=30000).mask_probability(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        tensor([0.1327, 0.6482, 0.9252], dtype=torch.float64)
    """

    num_tokens: int
    start: float = -3.5
    end: float = -1.75

    def __post_init__(self) -> None:
        if self.num_tokens < 2:
            raise ValueError(f"num_tokens must be 2 or more; got {self.num_tokens}")
        if not self.start < self.end:
            raise ValueError(f"the noise must grow, start < end; got {self.start} and {self.end}")

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return kept_share(self.ratio(t), self.num_tokens).to(t.dtype)

    @override
    def mask_probability(self, t: Tensor) -> Tensor:
        return lost_share(self.ratio(t), self.num_tokens).to(t.dtype)

    def alpha_prime(self, t: Tensor) -> Tensor:
        """The slope of alpha in r, times r' = -r (end - start) / 2; both by the same sum."""
        ratio, others = self.ratio(t), self.num_tokens - 1
        s = _grid(ratio)
        shifted = s + ratio[..., None]
        logs = _log_density(s) + _log_density(shifted) + (others - 1) * torch.special.log_ndtr(shifted)
        slope = self.num_tokens * STEP * logs.exp().sum(-1)
        return (-0.5 * (self.end - self.start) * ratio * slope).to(t.dtype)

    def ratio(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio r at times ``t`` of any shape, float64."""
        return torch.exp(-0.5 * (self.start + (self.end - self.start) * t.double()))


def kept_share(ratio: Tensor, num_tokens: int) -> Tensor:
    """Alpha at signal-to-noise ratios of any shape, float64; exact where it is small."""
    s = _grid(ratio)
    with_signal, without = ((num_tokens - 1) * torch.special.log_ndtr(x) for x in (s + ratio[..., None], s))
    gain = with_signal.exp() * -torch.expm1(without - with_signal)
    return num_tokens / (num_tokens - 1) * STEP * (_log_density(s).exp() * gain).sum(-1)


def lost_share(ratio: Tensor, num_tokens: int) -> Tensor:
    """The share 1 - alpha at signal-to-noise ratios of any shape, float64; exact where it is small."""
    s = _grid(ratio)
    beaten = -torch.expm1((num_tokens - 1) * torch.special.log_ndtr(s + ratio[..., None]))
    return num_tokens / (num_tokens - 1) * STEP * (_log_density(s).exp() * beaten).sum(-1)


def ratio_at(alpha: Tensor, num_tokens: int) -> Tensor:
    """The signal-to-noise ratio at which a token is kept with probability alpha, by bisection; 0 to 20.

    Args:
        alpha: of any shape, float64.
        num_tokens: K.
    """
    low, high = torch.zeros_like(alpha), torch.full_like(alpha, 20.0)
    for _ in range(56):
        middle = 0.5 * (low + high)
        below = kept_share(middle, num_tokens) < alpha
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def _grid(like: Tensor) -> Tensor:
    return torch.arange(-REACH, REACH + STEP, STEP, dtype=torch.float64, device=like.device)


def _log_density(s: Tensor) -> Tensor:
    return -0.5 * s.square() - 0.5 * math.log(2.0 * math.pi)
