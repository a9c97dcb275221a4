"""What losses and samplers ask of a model: logits where they are wanted, and the likelihood of targets.

They never ask for the (B, L, V) cube: on average half of its rows are thrown away in training, and nearly all of them
in sampling. `as_denoiser` makes a `Denoiser` of a backbone (`hidden` and `head`) or of any callable
``tokens -> logits``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.arguments import accepted, names
from llada.heads.cross_entropy import chunked_nll, nll
from llada.heads.frame import framed
from llada.heads.head_loss import Chunked, HeadLoss
from llada.heads.interpolated import divergence
from llada.heads.noise_law import NoisedTokens, NoiseLaw
from llada.heads.prepacked import PrepackedHead
from llada.rows import chosen, flat_indices


@runtime_checkable
class Backbone(Protocol):
    """A network in two halves; see `llada.backbones.body`."""

    def hidden(self, tokens: Tensor, *, select: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """(B, L) int64 -> (B, L, D), or (N, D) for the N flat indices of ``select``."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        ...


class Denoiser(ABC):
    """A model as losses and samplers see it.

    Keyword arguments of a call (``attention_mask`` (B, L) bool, ``segment_ids`` (B, L), ``sigma`` (B,), ...) go to the
    model; every tensor among them has a leading batch dimension.
    """

    @property
    def block_length(self) -> int | None:
        """Tokens per block of a block-causal model, which sees its own block and those before it; None for others."""
        return None

    def takes(self, name: str) -> bool:
        """Whether the model names this keyword argument."""
        return False

    @abstractmethod
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """Unnormalised log-probabilities.

        Args:
            tokens: (B, L) int64.
            where: the positions wanted. None: all; a (B, L) bool mask: its N true entries in row-major order;
                (B, M) int64 positions: those of each row.
            model_kwargs: for the model.

        Returns:
            (B, L, V), (N, V) or (B, M, V) respectively.
        """

    def token_nll(
        self, tokens: Tensor, targets: Tensor, where: Tensor, *, suppressed: int | None = None, **model_kwargs: Any
    ) -> Tensor:
        """Negative log-likelihood of the targets at the chosen positions, differentiable.

        Args:
            tokens: (B, L) int64, the model's input.
            targets: (B, L) int64.
            where: (B, L) bool, N of them true.
            suppressed: a token that the softmax leaves out, or None.
            model_kwargs: for the model.

        Returns:
            (N,) float32, nats, in row-major order.
        """
        return nll(self.logits(tokens, where, **model_kwargs), chosen(targets, where), suppressed)

    def weighted_nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        where: Tensor,
        weights: Tensor,
        *,
        suppressed: int | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """A loss: the sum of ``weights * token_nll``, and the terms.

        The weights are constants, known before the forward pass, so a denoiser that owns the head can make the gradient
        of each chunk of logits as soon as the chunk is there.

        Args:
            tokens: (B, L) int64, the model's input.
            targets: (B, L) int64.
            where: (B, L) bool, N of them true.
            weights: (N,).
            suppressed: a token that the softmax leaves out, or None.
            model_kwargs: for the model.

        Returns:
            The sum, () differentiable, and the terms without their weights, (N,) detached; nats.
        """
        terms = self.token_nll(tokens, targets, where, suppressed=suppressed, **model_kwargs)
        return (terms * weights.to(terms)).sum(), terms.detach()

    def interpolated_nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        where: Tensor,
        weights: Tensor,
        noise_law: NoiseLaw,
        *,
        cross_entropy: bool = False,
        posterior: bool = False,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """The loss of a process that also draws random tokens: the sum of ``weights * divergence``, and the terms.

        Args:
            tokens: x_t, (B, L) int64, the model's input.
            targets: (B, L) int64.
            where: (B, L) bool, N of them true.
            weights: (N,).
            noise_law: the laws at each one's time, (N,) each; see `llada.heads.interpolated`.
            cross_entropy: whether the sum to be minimised is that of the cross-entropies of the targets instead.
            posterior: whether the model's logits are those of the full posterior, as plain cross-entropy teaches it.
            model_kwargs: for the model.

        Returns:
            The sum, () differentiable, and the divergences without their weights, (N,) detached; nats.
        """
        noised = NoisedTokens(chosen(targets, where), chosen(tokens, where), noise_law, posterior)
        return self._divergence(tokens, where, noised, weights, cross_entropy, model_kwargs)

    def _divergence(
        self,
        tokens: Tensor,
        where: Tensor,
        noised: NoisedTokens,
        weights: Tensor,
        cross_entropy: bool,
        model_kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """As `interpolated_nll`, of the positions that are ``noised``."""
        return divergence(self.logits(tokens, where, **model_kwargs), noised, weights, cross_entropy=cross_entropy)

    def clean_logits(self, tokens: Tensor, where: Tensor, noise_law: NoiseLaw | None, **model_kwargs: Any) -> Tensor:
        """Logits of xhat, the distribution of the clean token that the reverse step takes.

        Args:
            tokens: x_t, (B, L) int64.
            where: (B, M) int64 positions.
            noise_law: the laws at the tokens' times, which broadcast to (B, M); None for masked diffusion.
            model_kwargs: for the model.

        Returns:
            (B, M, V); of the noise law's K data tokens; all others are at minus infinity.
        """
        logits = self.logits(tokens, where, **model_kwargs)
        return logits if noise_law is None else noise_law.only_data(logits)


class BackboneDenoiser(Denoiser):
    """A `Backbone`: the head runs on the chosen rows only.

    Args:
        backbone: a network with `hidden` and `head`.
        head_loss: how `weighted_nll` is computed.

    Attributes:
        prepacked: applies the head for `logits`.
    """

    def __init__(self, backbone: Backbone, head_loss: HeadLoss = Chunked()) -> None:  # noqa: B008 - frozen
        self.backbone, self.head_loss, self.prepacked = backbone, head_loss, PrepackedHead()

    @property
    @override
    def block_length(self) -> int | None:
        return getattr(self.backbone, "block_length", None)

    @override
    def takes(self, name: str) -> bool:
        return names(self.backbone.hidden, name)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        hidden = self._hidden(tokens, where, model_kwargs)
        logits = self.project(hidden)
        return logits.view(*where.shape, -1) if where is not None and where.dtype != torch.bool else logits

    def project(self, hidden: Tensor) -> Tensor:
        """The head, (..., D) -> (..., V); a call of many is faster than the first ones."""
        return self.prepacked(self.backbone.head, hidden)

    @override
    def token_nll(
        self, tokens: Tensor, targets: Tensor, where: Tensor, *, suppressed: int | None = None, **model_kwargs: Any
    ) -> Tensor:
        head, hidden = self.backbone.head, self._hidden(tokens, where, model_kwargs)
        return framed(chunked_nll, head)(head, hidden, chosen(targets, where), suppressed)

    @override
    def weighted_nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        where: Tensor,
        weights: Tensor,
        *,
        suppressed: int | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        head, hidden = self.backbone.head, self._hidden(tokens, where, model_kwargs)
        return framed(self.head_loss, head)(head, hidden, chosen(targets, where), weights, suppressed)

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
        head, hidden = self.backbone.head, self._hidden(tokens, where, model_kwargs)
        loss = framed(self.head_loss.interpolated, head)
        return loss(head, hidden, noised, weights, cross_entropy=cross_entropy)

    def _hidden(self, tokens: Tensor, where: Tensor | None, model_kwargs: dict[str, Any]) -> Tensor:
        arguments = accepted(self.backbone.hidden, type(self.backbone).__name__, model_kwargs)
        return self.backbone.hidden(tokens, select=flat_indices(tokens, where), **arguments)


class CallableDenoiser(Denoiser):
    """Any callable ``tokens (B, L) -> logits (B, L, V)``: a lambda, a table in a test, somebody else's model.

    Args:
        function: the callable; it gets the model's keyword arguments too.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    @property
    @override
    def block_length(self) -> int | None:
        return getattr(self.function, "block_length", None)

    @override
    def takes(self, name: str) -> bool:
        return names(self._called, name)

    @property
    def _called(self) -> Callable[..., Tensor]:
        return self.function.forward if isinstance(self.function, nn.Module) else self.function

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        logits = self.function(tokens, **accepted(self._called, name, model_kwargs))
        if where is None:
            return logits
        wanted = logits.flatten(0, 1)[flat_indices(tokens, where)]
        return wanted if where.dtype == torch.bool else wanted.view(*where.shape, -1)


def as_denoiser(model: Any, head_loss: HeadLoss = Chunked()) -> Denoiser:  # noqa: B008 - frozen
    """View a model as a `Denoiser`.

    Args:
        model: a `Denoiser`, a network with `hidden` and `head`, or a callable ``tokens -> logits``.
        head_loss: how the loss of a network with a `head` is computed.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(model, Denoiser):
        return model
    if isinstance(model, Backbone):
        return BackboneDenoiser(model, head_loss)
    if callable(model):
        return CallableDenoiser(model)
    raise TypeError(f"a model must be callable, tokens (B, L) -> logits (B, L, V); got {type(model).__name__}")
