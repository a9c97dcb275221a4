"""Hybrid diffusion: masks, and on the way to them random tokens too.

With alpha(t) the schedule and m = 1 - alpha, the shares are

    kept = alpha / C,   masked = m / C,   scattered = c / C,      c = B (alpha m)^(gamma / 2),   C = 1 + c,

and B such that the scattered share is ``scatter`` where alpha = 1/2, which is its peak. Both ends are those of masked
diffusion: all clean, all masks. In between a network learns to doubt what it sees, so it can mend its own mistakes.

Two processes have these shares. In `HybridProcess` a masked token may still jump to a random one, so the way back may
mask a token again (GIDD). In `AbsorbingHybridProcess` a mask stays, so the way back writes every position once and may
mend it later (SCDD).

Reference: von Rütte et al., "Generalized Interpolating Discrete Diffusion", arXiv 2503.04482, section 3; its released
code has gamma = 1.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_fields
from llada.heads.noise_law import NoiseLaw
from llada.noise import LinearSchedule, NoiseSchedule
from llada.process.noised import check_mask
from llada.process.process import Process
from llada.process.shares import Rates, Shares


@dataclass(frozen=True)
class HybridProcess(Process):
    """Masks and random tokens; every jump forgets what it leaves.

    Args:
        mask_token_id: id of the mask token.
        num_tokens: random tokens are drawn from 0 .. num_tokens - 1, but never the mask, and the data has no others.
        scatter: share of random tokens at their peak, above 0 and below 1; GIDD: 0.1 or 0.2.
        gamma: how long random tokens last, in (0, 2]: their share grows as (alpha (1 - alpha))^(gamma / 2).
        schedule: alpha(t), which tells kept tokens from masked ones.
        time_conditioned: whether the backbone takes sigma(t) = -log alpha(t) of the schedule as the keyword ``sigma``.
        posterior: whether the network gives the full posterior, as plain cross-entropy teaches it, which bound and
            reverse step then correct (`LeaveOneOut`).
        tells_time: whether a time-conditioned backbone gets the time t itself in the place of sigma(t), as GIDD's does.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import torch
        >>> from llada.process import HybridProcess
        >>> process = HybridProcess(mask_token_id=7, num_tokens=7, scatter=0.2)
        >>> kept, masked, scattered = process.shares(torch.tensor([0.5], dtype=torch.float64))
        >>> round(float(masked), 3), round(float(scattered), 3)
        (0.4, 0.2)
    """

    mask_token_id: int
    num_tokens: int
    scatter: float = 0.1
    gamma: float = 1.0
    schedule: NoiseSchedule = field(default_factory=LinearSchedule)
    time_conditioned: bool = False
    posterior: bool = False
    tells_time: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_mask(self.mask_token_id)
        if self.num_tokens < 2 + (0 <= self.mask_token_id < self.num_tokens):
            raise ValueError(f"num_tokens must leave 2 data tokens or more; got {self.num_tokens}")
        if not 0.0 < self.scatter < 1.0:
            raise ValueError(f"scatter must be above 0 and below 1 (MaskingProcess scatters none); got {self.scatter}")
        if not 0.0 < self.gamma <= 2.0:
            raise ValueError(f"gamma must be in (0, 2], or else tokens would have to jump back; got {self.gamma}")

    @override
    def shares(self, t: Tensor) -> Shares:
        alpha, noise = self.schedule.alpha(t), self.schedule.mask_probability(t)
        scattered = self._scattered(alpha, noise)
        return Shares(*(part / (1.0 + scattered) for part in (alpha, noise, scattered)))

    @override
    def rate(self, t: Tensor) -> Rates:
        """-alpha' / (alpha C) into the mask, and c k / C to random tokens, with k from `_growth`."""
        alpha = self.schedule.alpha(t)
        scattered = self._scattered(alpha, self.schedule.mask_probability(t))
        fall = -self.schedule.alpha_prime(t) / alpha
        return Rates(fall / (1.0 + scattered), self._growth(t) * scattered / (1.0 + scattered))

    def _scattered(self, alpha: Tensor, noise: Tensor) -> Tensor:
        """The number c, like the arguments."""
        peak = self.scatter / (1.0 - self.scatter)
        return peak * (4.0 * alpha * noise).clamp(min=0.0) ** (0.5 * self.gamma)

    def _growth(self, t: Tensor) -> Tensor:
        """K = (log c)' - (log alpha)' = -(alpha' / alpha) (1 - gamma / 2 + gamma alpha / 2 m), 0 or more."""
        alpha, noise = self.schedule.alpha(t), self.schedule.mask_probability(t)
        half = 0.5 * self.gamma
        return -self.schedule.alpha_prime(t) / alpha * (1.0 - half + half * alpha / noise)


@dataclass(frozen=True)
class AbsorbingHybridProcess(HybridProcess):
    """Masks and random tokens; what is masked stays so.

    A token that isn't masked was kept with probability rho = kept / (kept + scattered), and

        p(x_s = y    | x_t = mask) = (masked_t - masked_s) / masked_t  (rho_s xhat(y) + (1 - rho_s) / K)
        p(x_s = mask | x_t = mask) = masked_s / masked_t;

    a token that isn't masked goes back as under uniform noise whose kept share is rho. The divergence compares the laws
    of tokens that aren't masked. Arguments as those of `HybridProcess`.

    Reference:
        The forward process of self-correcting discrete diffusion (SCDD), here in continuous time; derived from the path
        measures of both directions.

    Examples:
        >>> import torch
        >>> from llada.process import AbsorbingHybridProcess
        >>> process = AbsorbingHybridProcess(mask_token_id=7, num_tokens=7, scatter=0.2)
        >>> kept, masked, scattered = process.shares(torch.tensor([0.5], dtype=torch.float64))
        >>> round(float(masked), 3), round(float(scattered), 3)
        (0.4, 0.2)
    """

    @override
    def rate(self, t: Tensor) -> Rates:
        """Into the mask -g' / g, with g the share that isn't masked; to random tokens -rho' / rho."""
        share = self.shares(t)
        seen = share.kept + share.scattered
        alpha, noise = self.schedule.alpha(t), self.schedule.mask_probability(t)
        fall = -self.schedule.alpha_prime(t) / noise
        growth = 1.0 + share.scattered * 0.5 * self.gamma * (noise - alpha) / alpha  # of log masked, in units of fall
        return Rates(fall * growth * share.masked / seen, self._growth(t) * share.scattered / seen)

    @override
    def noise_law(self, t: Tensor) -> NoiseLaw:
        return self._noise_law(_of_seen(self.shares(t)))

    @override
    def reverse(self, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        now, then = self.shares(t[:, None]), self.before(s[:, None])
        masked, seen = self.is_masked(tokens), _of_seen(then)
        mended = self._posterior(tokens.masked_fill(masked, int(self.mask_token_id == 0)), clean, _of_seen(now), seen)
        left = (then.masked / now.masked)[..., None]
        uncovered = (1.0 - left) * (seen.kept[..., None] * clean + self._noise(seen, clean.shape[-1]))
        uncovered[..., self.mask_token_id] = left[..., 0]
        return torch.where(masked[..., None], uncovered, mended)


def _of_seen(share: Shares) -> Shares:
    """The shares among the tokens that aren't masked; all scattered where every token is masked."""
    kept = share.kept / (share.kept + share.scattered).clamp(min=torch.finfo(share.kept.dtype).tiny)
    return Shares(kept, torch.zeros_like(kept), 1.0 - kept)
