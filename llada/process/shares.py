"""The numbers that describe noise: what has become of the tokens at a time, and how fast they go on to change."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from llada.noise.slopes import finds_slopes


class Shares(NamedTuple):
    """What has become of the tokens at a time; all of the shape of the times, float64, and 1 in sum.

    Attributes:
        kept: share of tokens that are as they were; a random token may be the right one by chance and isn't counted.
        masked: share of mask tokens.
        scattered: share of tokens that were drawn at random, uniformly over all data tokens.
    """

    kept: Tensor
    masked: Tensor
    scattered: Tensor


class Rates(NamedTuple):
    """How often a token jumps, per unit of time; of the shape of the times, float64, 0 or more.

    Attributes:
        masked: into the mask.
        scattered: into a random token, all data tokens together.
    """

    masked: Tensor
    scattered: Tensor


@finds_slopes
def rates_of(shares: Callable[[Tensor], Shares], t: Tensor) -> Rates:
    """The rates of a process whose jumps don't depend on the token that is left: r = b' - (a' / a) b.

    Here a is the kept share and b the masked or the scattered one; the slopes come from automatic differentiation.

    Args:
        shares: from times to the shares of tokens kept, masked and scattered, each of the times' shape; built from
            differentiable torch operations.
        t: times in (0, 1), of any shape, float64.

    Raises:
        ValueError: if the slopes got lost on the way, as by ``t.detach()``, or a rate is below 0, so that no process
            has these shares (both are looked for on the CPU only, where it costs no waiting).
    """

    def totals(time: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in shares(time)])  # shares act on each time alone

    kept, *noise = shares(t)
    pull = torch.func.vjp(totals, t)[1]
    kept_slope, *slopes = (pull(axis)[0] for axis in torch.eye(3, dtype=t.dtype, device=t.device))
    rates = Rates(*(slope - kept_slope / kept * share for share, slope in zip(noise, slopes, strict=True)))
    if t.device.type == "cpu" and t.numel():
        if not bool(kept_slope.any()) and bool(((t > 0.0) & (t < 1.0)).any()):
            raise ValueError(
                "the derivative of shares(t) got lost; build it from differentiable torch operations on t, without "
                "detach, or write rate too"
            )
        least = torch.stack([rate.min() for rate in rates]).min()
        if float(least) < -1e-9:
            raise ValueError(
                f"no process has these shares: tokens would have to jump back, at a rate of {float(least):.3g}; the "
                "masked and scattered shares mustn't fall faster than the kept one"
            )
    return rates
