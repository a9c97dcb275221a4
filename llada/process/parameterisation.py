"""What a network's outputs mean, where they aren't the logits of xhat that bound and reverse step ask for.

Under noise that draws random tokens the best xhat is the leave-one-out posterior p(x_i | x_t without its token i). A
network that learns by plain cross-entropy gives the full posterior instead, and by Bayes' rule

    p(x_i | x_t)  ~  p(x_i | x_t without token i)  q(x_t^i | x_i),

so xhat is what it says over q, renormalised. A network that learns scores gives s(y) = p_t(y) / p_t(z), the odds of the
other tokens that might stand in z's place, with p_t(y) = kept xhat(y) + scattered / K.

Reference: on the full posterior, "Uniform Diffusion Models Revisited: Leave-One-Out Denoiser and Absorbing State
Reformulation", arXiv 2605.22765; on scores, Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the
Data Distribution", arXiv 2310.16834.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.heads import Chunked, HeadLoss
from llada.heads.interpolated import divergence
from llada.heads.noise_law import NoisedTokens, NoiseLaw, leave_one_out


class _Reading(nn.Module, Denoiser):
    """Another model, whose outputs mean something else.

    Args:
        model: whatever `as_denoiser` takes.
        head_loss: how the loss of a network with a `head` is computed.
    """

    def __init__(self, model: Any, head_loss: HeadLoss = Chunked()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.model, self.head_loss = model, head_loss

    @property
    def inner(self) -> Denoiser:
        """The model itself."""
        return as_denoiser(self.model, self.head_loss)

    @property
    @override
    def block_length(self) -> int | None:
        return self.inner.block_length

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        return self.inner.logits(tokens, where, **model_kwargs)

    def forward(self, tokens: Tensor, **model_kwargs: Any) -> Tensor:
        """The model's own outputs, (B, L, V)."""
        return self.logits(tokens, **model_kwargs)


class LeaveOneOut(_Reading):
    """A network of the full posterior, as plain cross-entropy teaches it, that gives its leave-one-out posterior.

    `logits`, `token_nll` and `weighted_nll` are the network's own; what bound and reverse step ask for is converted.
    A process with ``posterior=True`` does this to its network itself. Masked diffusion needs none of it: there a
    scored token, the mask, says nothing of what it hides.

    Args:
        model: whatever `as_denoiser` takes.
        head_loss: how the loss of a network with a `head` is computed.

    Examples:
        >>> import torch
        >>> from llada.process import LeaveOneOut, UniformProcess
        >>> process = UniformProcess(num_tokens=4)
        >>> posterior = lambda tokens: torch.full((*tokens.shape, 4), 0.1).scatter(2, tokens[..., None], 0.7).log()
        >>> tokens, t = torch.tensor([[2]]), torch.tensor([[0.5]], dtype=torch.float64)
        >>> LeaveOneOut(posterior).clean_logits(tokens, tokens * 0, process.noise_law(t)).softmax(-1)
        tensor([[[0.2273, 0.2273, 0.3182, 0.2273]]])
    """

    @override
    def weighted_nll(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self.inner.weighted_nll(*arguments, **options)

    @override
    def token_nll(self, *arguments: Any, **options: Any) -> Tensor:
        return self.inner.token_nll(*arguments, **options)

    @override
    def interpolated_nll(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self.inner.interpolated_nll(*arguments, **{**options, "posterior": True})

    @override
    def clean_logits(self, tokens: Tensor, where: Tensor, noise_law: NoiseLaw | None, **model_kwargs: Any) -> Tensor:
        logits = self.inner.clean_logits(tokens, where, noise_law, **model_kwargs)
        return logits if noise_law is None else leave_one_out(logits, tokens.gather(1, where), noise_law)


class ScoreDenoiser(_Reading):
    """A network of log-scores, such as SEDD's: log s(y) for every y, of which that of the token itself counts as 0.

    A score that asks for less than the random tokens alone would give counts as xhat(y) = 0. The loss needs the outputs
    of all scored positions at once. Arguments as those of `LeaveOneOut`.

    Examples:
        >>> import torch
        >>> from llada.process import ScoreDenoiser, UniformProcess
        >>> process = UniformProcess(num_tokens=4)
        >>> scores = lambda tokens: torch.tensor([0.5, 0.3, 1.0, 0.4]).log().expand(*tokens.shape, 4)
        >>> tokens, t = torch.tensor([[2]]), torch.tensor([[0.5]], dtype=torch.float64)
        >>> ScoreDenoiser(scores).clean_logits(tokens, tokens * 0, process.noise_law(t)).softmax(-1)
        tensor([[[0.2045, 0.0227, 0.6591, 0.1136]]])
    """

    @override
    def _divergence(
        self,
        tokens: Tensor,
        where: Tensor,
        noised: NoisedTokens,
        weights: Tensor,
        cross_entropy: bool,
        model_kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        clean = _of_scores(self.logits(tokens, where, **model_kwargs), noised.tokens, noised.noise_law)
        return divergence(clean, noised, weights, cross_entropy=cross_entropy)

    @override
    def clean_logits(self, tokens: Tensor, where: Tensor, noise_law: NoiseLaw | None, **model_kwargs: Any) -> Tensor:
        scores = self.logits(tokens, where, **model_kwargs)
        if noise_law is None:  # xhat is proportional to the scores
            return scores
        clean = _of_scores(scores[..., : noise_law.num_tokens], tokens.gather(1, where), noise_law)
        return noise_law.only_data(F.pad(clean, (0, scores.shape[-1] - noise_law.num_tokens)))


def _of_scores(scores: Tensor, tokens: Tensor, noise_law: NoiseLaw) -> Tensor:
    """Logits of xhat from log-scores, (..., K); tokens (...), and a noise law that broadcasts to them."""
    number = noise_law.num_tokens
    log_s = scores[..., :number].to(torch.promote_types(scores.dtype, torch.float32))
    is_data = noise_law.is_data(tokens)  # a mask has scores for all data tokens
    if noise_law.hole is not None:
        log_s = log_s.index_fill(-1, torch.tensor([noise_law.hole], device=log_s.device), -torch.inf)
    at_token = F.one_hot(tokens.where(is_data, 0), number).bool() & is_data[..., None]
    p = log_s.masked_fill(at_token, 0.0).softmax(-1)  # of the data tokens
    kept, scattered = (part.expand(tokens.shape)[..., None] for part in noise_law[:2])
    share = ((p * (kept + noise_law.num_data * scattered) - scattered) / kept).clamp(min=torch.finfo(p.dtype).tiny)
    return share.to(p).log()
