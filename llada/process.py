"""The forward process of masked diffusion, and the speed of its reversal.

Every token is still clean at time t with probability alpha(t), and masked otherwise, independently of the others:

    q(x_t^i | x_0^i) = alpha(t) [x_t^i = x_0^i] + (1 - alpha(t)) [x_t^i = mask].

`MaskingProcess` is the only owner of what training and sampling must agree on: the schedule, the mask token and whether
the network is told the noise level.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from llada.noise import LinearSchedule, NoiseSchedule
from llada.random import RowRandom


class Noised(NamedTuple):
    """A corrupted batch.

    Attributes:
        tokens: x_t, (B, L) int64.
        masked: (B, L) bool, where this call masked. A mask token that was in the data already isn't among them.
    """

    tokens: Tensor
    masked: Tensor


@dataclass(frozen=True)
class MaskingProcess:
    """Absorbing ("masked") diffusion over token sequences.

    Args:
        mask_token_id: id of the mask token m.
        schedule: alpha(t).
        time_conditioned: whether the backbone takes the total noise sigma(t) = -log alpha(t) as the keyword ``sigma``.
            The optimal denoiser of a masked row doesn't depend on t, so LLaDA has none of it.
        predicts_mask: whether the network may put probability on the mask token when the loss is computed. LLaDA
            normalises over the whole vocabulary (True); MDLM's SUBS parameterisation excludes the mask (False).
            Sampling excludes it always.

    Raises:
        ValueError: if ``mask_token_id`` is negative.

    Reference:
        Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, equation 7; Sahoo et al., "Simple and Effective
        Masked Diffusion Language Models", arXiv 2406.07524, equations 4 to 6 and section 3.2.3.
    """

    mask_token_id: int
    schedule: NoiseSchedule = field(default_factory=LinearSchedule)
    time_conditioned: bool = False
    predicts_mask: bool = True

    def __post_init__(self) -> None:
        if self.mask_token_id < 0:
            raise ValueError(f"mask_token_id must be a token id, 0 or more; got {self.mask_token_id}")

    @property
    def forbidden(self) -> int | None:
        """The token that the loss's softmax leaves out, if any."""
        return None if self.predicts_mask else self.mask_token_id

    def corrupt(self, x_0: Tensor, t: Tensor, maskable: Tensor | None = None, *, random: RowRandom) -> Noised:
        """Mask every token independently with probability 1 - alpha(t).

        Args:
            x_0: clean tokens, (B, L) int64.
            t: times in [0, 1], (B,) or, for a noise level per position, (B, L).
            maskable: (B, L) bool, False for the prompt and for padding, which are never touched. None: all True.
            random: the rows' random streams.

        Raises:
            ValueError: if the shapes don't fit.
        """
        maskable = check_maskable(x_0, maskable)
        if t.shape not in (x_0.shape[:1], x_0.shape):
            raise ValueError(f"t must be (B,) = ({x_0.shape[0]},) or (B, L) = {tuple(x_0.shape)}; got {tuple(t.shape)}")
        probability = self.schedule.mask_probability(t.to(torch.float64))
        if t.ndim == 1:
            probability = probability[:, None]
        masked = (random.uniform(x_0.shape[1]) < probability) & maskable
        return Noised(x_0.masked_fill(masked, self.mask_token_id), masked)

    def corrupt_exactly(
        self, x_0: Tensor, count: Tensor, maskable: Tensor | None = None, *, random: RowRandom
    ) -> Noised:
        """Mask exactly ``count`` maskable tokens of each row, every set of that size being equally likely.

        Args:
            x_0: clean tokens, (B, L) int64.
            count: (B,) integers; a row with fewer maskable tokens has all of them masked.
            maskable: (B, L) bool as in `corrupt`.
            random: the rows' random streams.

        Raises:
            ValueError: if the shapes don't fit or ``count`` isn't an integer tensor.
        """
        maskable = check_maskable(x_0, maskable)
        if count.shape != x_0.shape[:1] or count.is_floating_point():
            raise ValueError(f"count must be ({x_0.shape[0]},) integers; got {tuple(count.shape)} {count.dtype}")
        order = random.uniform(x_0.shape[1]).masked_fill(~maskable, 2.0).argsort(dim=1)
        rank = torch.arange(x_0.shape[1], device=x_0.device).expand_as(order)
        masked = torch.zeros_like(maskable).scatter(1, order, rank < count[:, None]) & maskable
        return Noised(x_0.masked_fill(masked, self.mask_token_id), masked)

    def is_masked(self, tokens: Tensor) -> Tensor:
        """Which positions of a canvas wait for a token, bool of the same shape."""
        return tokens == self.mask_token_id

    def conditioning(self, t: Tensor) -> dict[str, Tensor]:
        """Keywords by which the backbone learns the noise level.

        Args:
            t: (B,) times.

        Returns:
            ``{}``, or ``{"sigma": (B,) float32}`` if the process is time-conditioned.

        Raises:
            ValueError: if the process is time-conditioned and sigma(1) is infinite.
        """
        if not self.time_conditioned:
            return {}
        if float(self.schedule.alpha(torch.ones((), dtype=torch.float64))) <= 0.0:
            raise ValueError(
                f"a time-conditioned backbone needs a finite sigma(1) = -log alpha(1), but {self.schedule} has "
                "alpha(1) = 0; give the schedule some residual signal, such as LinearSchedule(eps=1e-3)"
            )
        return {"sigma": self.schedule.sigma(t.to(torch.float64)).float()}


def check_maskable(x_0: Tensor, maskable: Tensor | None) -> Tensor:
    """The maskable positions as a (B, L) bool tensor, all True by default.

    Raises:
        ValueError: if ``x_0`` isn't (B, L) or ``maskable`` isn't a bool tensor of its shape.
    """
    if x_0.ndim != 2 or x_0.is_floating_point():
        raise ValueError(f"tokens must be (B, L) integers; got {tuple(x_0.shape)} {x_0.dtype}")
    if maskable is None:
        return torch.ones_like(x_0, dtype=torch.bool)
    if maskable.shape != x_0.shape or maskable.dtype != torch.bool:
        raise ValueError(
            f"maskable must be bool of the tokens' shape {tuple(x_0.shape)}; "
            f"got {tuple(maskable.shape)} {maskable.dtype}"
        )
    return maskable
