"""A noise schedule is the curve alpha(t): the probability that a token is still clean at time t.

Time runs from 0 (clean) to 1 (masked). All else follows from the curve:

    w(t) = -alpha'(t) / (1 - alpha(t))                     weight of the bound
    P(uncover between t and s) = (alpha_s - alpha_t) / (1 - alpha_t)      s < t
    sigma(t) = -log alpha(t)                               total noise, as SEDD and MDLM count it

The bound doesn't depend on the schedule; the variance of its estimate and the pace of sampling do.

Reference: Sahoo et al., "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, section 3.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class NoiseSchedule(ABC):
    """The curve alpha(t). A subclass gives `alpha`; closed forms of the rest are optional.

    Contract: alpha decreases strictly, from 1 at t = 0 to 0, or to a small residue, at t = 1. A curve that starts below
    1 (a smallest noise above 0) says so in its documentation; its last reverse step still uncovers everything.

    Methods take times of any shape in float32 or float64 and return tensors like them.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is clean at time ``t`` in [0, 1]; built from differentiable torch operations."""

    def alpha_prime(self, t: Tensor) -> Tensor:
        """The derivative of `alpha`, 0 or less; by automatic differentiation unless a subclass has a closed form."""
        with torch.inference_mode(False), torch.enable_grad():
            time = t.detach().clone().requires_grad_()
            (derivative,) = torch.autograd.grad(self.alpha(time).sum(), time)
        return derivative

    def mask_probability(self, t: Tensor) -> Tensor:
        """1 - alpha(t); a subclass overrides it where the subtraction would cancel near t = 0."""
        return 1.0 - self.alpha(t)

    def loss_weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)) for t in (0, 1].

        Reference:
            arXiv 2406.07524, equation 11.
        """
        return -self.alpha_prime(t) / self.mask_probability(t)

    def unmask_probability(self, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token which is masked at ``t`` is uncovered by the earlier time ``s``.

        Exactly 1 at s = 0, so that the last reverse step leaves no mask.

        Args:
            t: times in (0, 1].
            s: times in [0, t].

        Reference:
            arXiv 2406.07524, equation 7.
        """
        probability = 1.0 - self.mask_probability(s) / self.mask_probability(t)
        return torch.where(s == 0, torch.ones_like(probability), probability).clamp(0.0, 1.0)

    def sigma(self, t: Tensor) -> Tensor:
        """Total noise -log alpha(t); infinite where alpha is 0."""
        return -self.alpha(t).log()

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """The inverse of `mask_probability`: when this share of the tokens is masked.

        By bisection unless a subclass has a closed form. Shares outside the curve's range give its ends.

        Args:
            mask_probability: in [0, 1], any shape.
        """
        low, high = torch.zeros_like(mask_probability), torch.ones_like(mask_probability)
        for _ in range(64):
            middle = 0.5 * (low + high)
            below = self.mask_probability(middle) < mask_probability
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high


def check_residue(eps: float) -> None:
    """Whether ``eps`` can be the share of clean tokens that a schedule leaves at t = 1.

    Raises:
        ValueError: if it isn't in [0, 1).
    """
    if not 0.0 <= eps < 1.0:
        raise ValueError(f"eps, the share of clean tokens left at t = 1, must be in [0, 1); got {eps}")
