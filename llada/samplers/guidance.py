"""Classifier-free guidance: sharpen what the prompt adds.

    log p = u + (1 + w) (c - u),   c with the prompt, u without it, then normalised

Samplers that write every mask once guide the logits of the clean token. Those of the reverse process guide the law of
a whole step, log p(x_s | x_t), so that under any noise a step does what the prompt makes likelier; for masks this also
moves how soon a token is uncovered, as guided jump rates do.

Without the prompt means: with the mask, or another token that stands for nothing, at its positions. Masked diffusion
needs no more in training; other noise learns it by `llada.objectives.ConditionDropout`.

Reference: Nie et al., "Scaling up Masked Diffusion Models on Text", arXiv 2410.18514, section 4, and arXiv 2502.09992,
equation 16 (logits); Schiff et al., "Simple Guidance Mechanisms for Discrete Diffusion Models", arXiv 2412.10193,
section 3.1 (laws of steps); Nisonoff et al., "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models",
arXiv 2406.01572 (rates).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.samplers.part import Part
from llada.samplers.state import State


class GuidedDenoiser(Denoiser):
    """A denoiser that runs another with and without the prompt, as one batch of twice the rows.

    Likelihoods are those of the guided distribution, which aren't a bound on anything.

    Args:
        inner: the denoiser.
        prompt: (B, L) bool, what the unconditional input masks.
        scale: w; 0 is no guidance, -1 the unconditional model.
        null_token_id: what stands there instead.

    Examples:
        >>> import torch
        >>> from llada.denoiser import as_denoiser
        >>> from llada.samplers import GuidedDenoiser
        >>> model = as_denoiser(lambda tokens: torch.nn.functional.one_hot(tokens[:, :1], 4).float().expand(-1, 2, -1))
        >>> prompt = torch.tensor([[True, False]])
        >>> GuidedDenoiser(model, prompt, scale=1.0, null_token_id=3).logits(torch.tensor([[1, 2]]))[0, 1]
        tensor([ 0.,  2.,  0., -1.])
    """

    def __init__(self, inner: Denoiser, prompt: Tensor, scale: float, null_token_id: int) -> None:
        self.inner, self.prompt, self.scale, self.null_token_id = inner, prompt, scale, null_token_id

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        both = torch.cat((tokens, tokens.masked_fill(self.prompt, self.null_token_id)))
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
        scale: w; 0 for none, and then the model runs once per step. -1 leaves the prompt out.
        null_token_id: what stands in the place of the prompt where the model is to go without it; None: the mask. Noise
            without masks needs one, which the model has learnt by `llada.objectives.ConditionDropout`.

    Examples:
        >>> from llada.samplers import Guidance, Quota, UnmaskingSampler
        >>> sampler = UnmaskingSampler(Quota(steps=16), guidance=Guidance(scale=1.5))
        >>> sampler.guidance.branches  # inputs of a row in each model call
        2
    """

    scale: float = 0.0
    null_token_id: int | None = None

    @property
    def branches(self) -> int:
        """Inputs per row of a model call."""
        return 1 if self.scale == 0.0 else 2

    def __call__(
        self, denoiser: Denoiser, given: Tensor, mask_token_id: int | None, attention_mask: Tensor | None
    ) -> Denoiser:
        """The guided denoiser for a canvas.

        Args:
            denoiser: the model.
            given: (B, L) bool, the prompt and the padding.
            mask_token_id: of the process, if it has one.
            attention_mask: (B, L), true for real tokens. Padding isn't prompt and stays as it is.

        Raises:
            ValueError: if nothing is known that stands for no prompt.
        """
        if self.scale == 0.0:
            return denoiser
        return GuidedDenoiser(denoiser, prompt_of(given, attention_mask), self.scale, self._null(mask_token_id))

    def without_prompt(self, state: State, attention_mask: Tensor | None) -> State:
        """A canvas without its prompt; arguments and error as in a call."""
        prompt, null = prompt_of(state.given, attention_mask), self._null(state.process.mask_token_id)
        return replace(state, tokens=state.tokens.masked_fill(prompt, null))

    def of_laws(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """The guided law, up to its normaliser.

        Args:
            conditional: (..., V) float64, log-probabilities with the prompt. What has none gets none.
            unconditional: (..., V) float64, those without it.
        """
        floor = unconditional.clamp(min=-700.0)  # where a float64 ends
        guided = floor + (1.0 + self.scale) * (conditional - floor)
        return guided.masked_fill(conditional == -torch.inf, -torch.inf)

    def _null(self, mask_token_id: int | None) -> int:
        null = mask_token_id if self.null_token_id is None else self.null_token_id
        if null is None:
            raise ValueError(
                f"guidance of scale {self.scale} asks the model without its prompt, and noise without masks has no "
                "token for that; give Guidance(null_token_id=...), which the model has learnt by ConditionDropout"
            )
        return null


def prompt_of(given: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which given positions are no padding, (B, L) bool."""
    return given if attention_mask is None else given & attention_mask.bool()
