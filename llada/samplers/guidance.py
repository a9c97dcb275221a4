"""Classifier-free guidance: sharpen what the prompt adds.

    logits = u + (1 + w) (c - u),   c with the prompt, u with the prompt masked

No condition dropping is needed in training: a masked prompt is a natural unconditional input.

Reference: Nie et al., "Scaling up Masked Diffusion Models on Text", arXiv 2410.18514, section 4; arXiv 2502.09992,
equation 16.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.samplers.part import Part


class GuidedDenoiser(Denoiser):
    """A denoiser that runs another with and without the prompt, as one batch of twice the rows.

    Likelihoods are those of the guided distribution, which aren't a bound on anything.

    Args:
        inner: the denoiser.
        prompt: (B, L) bool, what the unconditional input masks.
        scale: w; 0 is no guidance, -1 the unconditional model.
        mask_token_id: what masks it.
    """

    def __init__(self, inner: Denoiser, prompt: Tensor, scale: float, mask_token_id: int) -> None:
        self.inner, self.prompt, self.scale, self.mask_token_id = inner, prompt, scale, mask_token_id

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        both = torch.cat((tokens, tokens.masked_fill(self.prompt, self.mask_token_id)))
        arguments = {
            name: torch.cat((value, value)) if isinstance(value, Tensor) else value
            for name, value in model_kwargs.items()
        }
        twice = None if where is None else torch.cat((where, where))
        conditional, unconditional = self.inner.logits(both, twice, **arguments).chunk(2)
        return unconditional + (1.0 + self.scale) * (conditional - unconditional)


@dataclass(frozen=True)
class Guidance(Part):
    """How strongly to guide.

    Args:
        scale: w; 0 for none, and then the model runs once per step.
    """

    scale: float = 0.0

    @property
    def branches(self) -> int:
        """Inputs per row of a model call."""
        return 1 if self.scale == 0.0 else 2

    def __call__(
        self, denoiser: Denoiser, given: Tensor, mask_token_id: int, attention_mask: Tensor | None
    ) -> Denoiser:
        """The guided denoiser for a canvas.

        Args:
            denoiser: the model.
            given: (B, L) bool, the prompt and the padding.
            mask_token_id: what masks the prompt.
            attention_mask: (B, L), true for real tokens. Padding isn't prompt and stays as it is.
        """
        if self.scale == 0.0:
            return denoiser
        prompt = given if attention_mask is None else given & attention_mask.bool()
        return GuidedDenoiser(denoiser, prompt, self.scale, mask_token_id)
