"""A noise schedule is the curve alpha(t): the probability that a token is still clean at time t.

Time runs from 0 (clean) to 1 (masked). All else follows from the curve:

    w(t) = -alpha'(t) / (1 - alpha(t))                     weight of the bound
    P(uncover between t and s) = (alpha_s - alpha_t) / (1 - alpha_t)      s < t
    sigma(t) = -log alpha(t)                               total noise, as SEDD and MDLM count it

The bound doesn't depend on the schedule; the variance of its estimate and the pace of sampling do.

Reference: Sahoo et al., "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, section 3.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor

from llada.noise.slopes import finds_slopes

_Method = TypeVar("_Method", bound=Callable[..., Tensor])
_CURVES = ("alpha", "alpha_prime", "mask_probability", "loss_weight", "unmask_probability", "sigma", "time_at")


def _real(value: Tensor) -> Tensor:
    """In float32 at least: in bfloat16, 1 - alpha(t) is exactly 0 up to t of about 0.002."""
    if not isinstance(value, Tensor):
        raise ValueError(f"a schedule takes tensors, got {value!r}; write torch.tensor({value!r}, dtype=torch.float64)")
    if not value.is_floating_point():
        raise ValueError(f"times and probabilities must be float32 or float64, got {value.dtype}; write t.double()")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _checked(method: _Method) -> _Method:
    @wraps(method)
    def checked(self: "NoiseSchedule", *args: Tensor, **kwargs: Tensor) -> Tensor:
        return method(self, *map(_real, args), **{name: _real(value) for name, value in kwargs.items()})

    return cast(_Method, checked)


def _to_its_ends(time_at: _Method) -> _Method:
    @wraps(time_at)
    def inverse(self: "NoiseSchedule", mask_probability: Tensor) -> Tensor:
        return time_at(self, mask_probability.clamp(0.0, 1.0)).clamp(0.0, 1.0)

    return cast(_Method, inverse)


class NoiseSchedule:
    """The curve alpha(t). A subclass gives `alpha` or `mask_probability`; closed forms of the rest are optional.

    Give `mask_probability` where it is the simpler formula: near t = 0 it is small, and 1 - alpha(t) would lose its
    digits. Give both where each end of the curve needs its own formula.

    Contract: alpha decreases strictly from 1 at t = 0 to 0 at t = 1. Some published curves depart from it at an end, by
    residual noise, alpha(0) < 1 (a smallest sigma above 0), or by residual signal, alpha(1) > 0 (an eps). They say so
    in their documentation, and it means that

    - training sees only masked shares from 1 - alpha(0) to 1 - alpha(1), and the bound's integral over the shares lacks
      the rest: per token, its estimate is too low by about (1 - alpha(0)) times the cross-entropy in full context plus
      alpha(1) times that without any;
    - sampling starts from nothing but masks all the same, and s = 0 means clean: `unmask_probability` is 1 there.

    `RescaledSchedule` makes any such curve fit.

    Methods take times of any shape in float32 or float64 and return tensors like them; half precisions are computed in
    float32, and anything else is refused with a ValueError. This holds for a subclass's own methods too.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a curve of the subclass is given, and cut what `time_at` gives, so that its formulas needn't."""
        super().__init_subclass__(**kwargs)
        for name in _CURVES:
            if name in vars(cls):
                method = vars(cls)[name]
                setattr(cls, name, _checked(_to_its_ends(method) if name == "time_at" else method))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse a class that gives neither curve, since each follows from the other.

        Raises:
            TypeError: if the class defines neither `alpha` nor `mask_probability`.
        """
        if cls.alpha is NoiseSchedule.alpha and cls.mask_probability is NoiseSchedule.mask_probability:
            raise TypeError(f"{cls.__name__} must define alpha(t) or mask_probability(t)")
        return super().__new__(cls)

    @_checked
    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is clean at time ``t`` in [0, 1]; 1 - `mask_probability` unless a subclass gives it.

        What a subclass gives must be built from differentiable torch operations.
        """
        return 1.0 - self.mask_probability(t)

    @_checked
    @finds_slopes
    def alpha_prime(self, t: Tensor) -> Tensor:
        """The derivative of `alpha`, 0 or less; by automatic differentiation unless a subclass has a closed form.

        It works under ``no_grad``, ``inference_mode``, ``vmap`` and ``torch.compile``, and lets gradients through to
        the parameters of a learned curve.

        Raises:
            ValueError: if `alpha` loses the derivative, as ``t.detach()`` does.
        """

        def total(time: Tensor) -> Tensor:
            value = self.alpha(time)
            if not value.requires_grad:
                raise ValueError(
                    f"the derivative of {type(self).__name__}.alpha(t) got lost; build alpha from differentiable torch "
                    "operations on t, without detach, or write alpha_prime too"
                )
            return value.sum()  # alpha acts on each time alone, so this is the derivative of each

        derivative: Tensor = torch.func.grad(total)(t)
        return derivative

    @_checked
    def mask_probability(self, t: Tensor) -> Tensor:
        """Probability that a token is masked at time ``t`` in [0, 1]; 1 - `alpha` unless a subclass gives it."""
        return 1.0 - self.alpha(t)

    @_checked
    def loss_weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)) for t in (0, 1].

        Reference:
            arXiv 2406.07524, equation 11.
        """
        return -self.alpha_prime(t) / self.mask_probability(t)

    @_checked
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

    @_checked
    def sigma(self, t: Tensor) -> Tensor:
        """Total noise -log alpha(t); infinite where alpha is 0."""
        share = self.mask_probability(t)
        return torch.where(share < 0.5, -torch.log1p(-share), -self.alpha(t).log())  # each exact where it is small

    @_checked
    def time_at(self, mask_probability: Tensor) -> Tensor:
        """The inverse of `mask_probability`: when this share of the tokens is masked.

        By bisection unless a subclass has a closed form. Shares outside the curve's range give its ends, 0 and 1.

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
