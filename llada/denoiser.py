"""What losses and samplers ask of a model: logits where they are wanted, and the likelihood of targets.

They never ask for the (B, L, V) cube: on average half of its rows are thrown away in training, and nearly all of them
in sampling. `as_denoiser` makes a `Denoiser` of a backbone (`hidden` and `head`) or of any callable
``tokens -> logits``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from llada.heads.cross_entropy import chunked_nll, nll
from llada.heads.head_loss import Chunked, HeadLoss


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
        self, tokens: Tensor, targets: Tensor, where: Tensor, *, forbidden: int | None = None, **model_kwargs: Any
    ) -> Tensor:
        """Negative log-likelihood of the targets at the chosen positions, differentiable.

        Args:
            tokens: (B, L) int64, the model's input.
            targets: (B, L) int64.
            where: (B, L) bool, N of them true.
            forbidden: a token that the softmax leaves out, or None.
            model_kwargs: for the model.

        Returns:
            (N,) float32, nats, in row-major order.
        """
        return nll(self.logits(tokens, where, **model_kwargs), targets[where], forbidden)

    def weighted_nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        where: Tensor,
        weights: Tensor,
        *,
        forbidden: int | None = None,
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
            forbidden: a token that the softmax leaves out, or None.
            model_kwargs: for the model.

        Returns:
            The sum, () differentiable, and the terms without their weights, (N,) detached; nats.
        """
        terms = self.token_nll(tokens, targets, where, forbidden=forbidden, **model_kwargs)
        return (terms * weights.to(terms)).sum(), terms.detach()


class BackboneDenoiser(Denoiser):
    """A `Backbone`: the head runs on the chosen rows only.

    Args:
        backbone: a network with `hidden` and `head`.
        head_loss: how `weighted_nll` is computed.
    """

    def __init__(self, backbone: Backbone, head_loss: HeadLoss = Chunked()) -> None:  # noqa: B008 - frozen
        self.backbone, self.head_loss = backbone, head_loss

    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """See `Denoiser.logits`."""
        hidden = self.backbone.hidden(tokens, select=flat_indices(tokens, where), **model_kwargs)
        logits = self.backbone.head(hidden)
        return logits.view(*where.shape, -1) if where is not None and where.dtype != torch.bool else logits

    def token_nll(
        self, tokens: Tensor, targets: Tensor, where: Tensor, *, forbidden: int | None = None, **model_kwargs: Any
    ) -> Tensor:
        """See `Denoiser.token_nll`."""
        hidden = self.backbone.hidden(tokens, select=flat_indices(tokens, where), **model_kwargs)
        return chunked_nll(self.backbone.head, hidden, targets[where], forbidden)

    def weighted_nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        where: Tensor,
        weights: Tensor,
        *,
        forbidden: int | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """See `Denoiser.weighted_nll`."""
        hidden = self.backbone.hidden(tokens, select=flat_indices(tokens, where), **model_kwargs)
        return self.head_loss(self.backbone.head, hidden, targets[where], weights, forbidden)


class CallableDenoiser(Denoiser):
    """Any callable ``tokens (B, L) -> logits (B, L, V)``: a lambda, a table in a test, somebody else's model.

    Args:
        function: the callable; it gets the model's keyword arguments too.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """See `Denoiser.logits`."""
        logits = self.function(tokens, **model_kwargs)
        if where is None:
            return logits
        chosen = logits.flatten(0, 1)[flat_indices(tokens, where)]
        return chosen if where.dtype == torch.bool else chosen.view(*where.shape, -1)


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


def flat_indices(tokens: Tensor, where: Tensor | None) -> Tensor | None:
    """Indices into the flattened (B * L,) tokens for a choice of positions as in `Denoiser.logits`."""
    if where is None:
        return None
    if where.dtype == torch.bool:
        return where.flatten().nonzero().squeeze(1)
    start = torch.arange(tokens.shape[0], device=tokens.device)[:, None] * tokens.shape[1]
    return (start + where).flatten()
