"""Masked ("absorbing") diffusion: a token is clean with probability alpha(t), and the mask token otherwise.

    q(x_t | x_0)                = alpha_t [x_t = x_0] + (1 - alpha_t) [x_t = mask]
    p(x_s = v    | x_t = mask)  = (alpha_s - alpha_t) / (1 - alpha_t) xhat(v)
    p(x_s = mask | x_t = mask)  = (1 - alpha_s) / (1 - alpha_t),          and what is written stays as it is.

Reference: Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, equation 7; Sahoo et al., "Simple and
Effective Masked Diffusion Language Models", arXiv 2406.07524, equations 4 to 7 and section 3.2.3.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.built import check_fields
from llada.noise import LinearSchedule, NoiseSchedule
from llada.process.noised import check_mask
from llada.process.process import Process
from llada.process.shares import Rates, Shares


@dataclass(frozen=True)
class MaskingProcess(Process):
    """Absorbing ("masked") diffusion over token sequences.

    Args:
        mask_token_id: id of the mask token.
        schedule: alpha(t).
        time_conditioned: whether the backbone takes the total noise sigma(t) = -log alpha(t) as the keyword ``sigma``.
            The optimal denoiser of a masked row doesn't depend on t, so LLaDA has none of it.
        predicts_mask: whether the network may put probability on the mask token when the loss is computed. LLaDA
            normalises over the whole vocabulary (True); MDLM's SUBS parameterisation excludes the mask (False).
            Sampling excludes it always.

    Raises:
        ValueError: if ``mask_token_id`` is negative.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> process = MaskingProcess(mask_token_id=9)
        >>> noised = process.corrupt(torch.arange(8)[None], torch.tensor([0.5]), random=RowRandom.from_seed(0, 1))
        >>> noised.tokens
        tensor([[0, 1, 9, 3, 4, 9, 6, 9]])
        >>> process.bound_weight(torch.tensor([0.5]), noised.tokens, noised.tokens)
        tensor([2.])
    """

    mask_token_id: int
    schedule: NoiseSchedule = field(default_factory=LinearSchedule)
    time_conditioned: bool = False
    predicts_mask: bool = True
    num_tokens: ClassVar[None] = None  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_fields(self)
        check_mask(self.mask_token_id)

    @property
    @override
    def suppressed(self) -> int | None:
        return None if self.predicts_mask else self.mask_token_id

    @override
    def shares(self, t: Tensor) -> Shares:
        masked = self.schedule.mask_probability(t)
        return Shares(self.schedule.alpha(t), masked, torch.zeros_like(masked))

    @override
    def rate(self, t: Tensor) -> Rates:
        """-alpha'(t) / alpha(t), of a token that isn't masked yet."""
        jumps = -self.schedule.alpha_prime(t) / self.schedule.alpha(t)
        return Rates(jumps, torch.zeros_like(jumps))

    @override
    def bound_weight(self, t: Tensor, tokens: Tensor, x_0: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)), of the cross-entropy of a masked token; 1/t for LLaDA.

        Reference:
            arXiv 2406.07524, equation 11; arXiv 2502.09992, equation 3.
        """
        return self.schedule.loss_weight(t)

    @override
    def reverse(self, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """p(x_s | x_t): the second and third equation at the head of this file; ``Process.reverse`` without 0 / 0."""
        chance = self.schedule.unmask_probability(t, s)[:, None, None]
        step = chance * clean
        step[..., self.mask_token_id] = 1.0 - chance[..., 0]
        written = F.one_hot(tokens, clean.shape[-1]).to(clean)
        return torch.where(self.is_masked(tokens)[..., None], step, written)
