"""Uniform diffusion: a token is clean with probability alpha(t), and a random one of K otherwise.

    q(x_t | x_0) = alpha_t [x_t = x_0] + (1 - alpha_t) / K

There is no mask: nothing tells a random token from a clean one, so the network judges every token, in each step any
token may still change, and a mistake can be mended. The optimal network gives the leave-one-out posterior
p(x_0^i | all of x_t but token i).

Reference: Schiff et al., "Simple Guidance Mechanisms for Discrete Diffusion Models", arXiv 2412.10193; on the optimum,
"Uniform Diffusion Models Revisited: Leave-One-Out Denoiser and Absorbing State Reformulation", arXiv 2605.22765.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.noise import LinearSchedule, NoiseSchedule
from llada.process.process import Process
from llada.process.shares import Rates, Shares


@dataclass(frozen=True)
class UniformProcess(Process):
    """Diffusion by random tokens.

    Args:
        num_tokens: K; random tokens are drawn from 0 .. K - 1, and the data has no others.
        schedule: alpha(t).
        time_conditioned: whether the backbone takes the total noise sigma(t) = -log alpha(t) as the keyword ``sigma``.
        posterior: whether the network gives the full posterior, as plain cross-entropy teaches it, which bound and
            reverse step then correct (`LeaveOneOut`).

    Raises:
        ValueError: if ``num_tokens`` is less than 2.

    Examples:
        >>> import torch
        >>> from llada.process import UniformProcess
        >>> from llada.random import RowRandom
        >>> process, half = UniformProcess(num_tokens=8), torch.tensor([0.5])
        >>> noised = process.corrupt(torch.arange(8)[None], half, random=RowRandom.from_seed(0, 1))
        >>> noised.tokens
        tensor([[0, 1, 6, 3, 4, 2, 6, 4]])
    """

    num_tokens: int
    schedule: NoiseSchedule = field(default_factory=LinearSchedule)
    time_conditioned: bool = False
    posterior: bool = False
    mask_token_id: ClassVar[None] = None  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.num_tokens < 2:
            raise ValueError(f"num_tokens must be 2 or more, the size of the vocabulary; got {self.num_tokens}")

    @override
    def shares(self, t: Tensor) -> Shares:
        scattered = self.schedule.mask_probability(t)
        return Shares(self.schedule.alpha(t), torch.zeros_like(scattered), scattered)

    @override
    def rate(self, t: Tensor) -> Rates:
        """-alpha'(t) / alpha(t), to all of the K tokens together."""
        jumps = -self.schedule.alpha_prime(t) / self.schedule.alpha(t)
        return Rates(torch.zeros_like(jumps), jumps)
