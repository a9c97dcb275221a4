"""Two ways to keep a Transformer from learning its text by heart, for either twin, without touching the backbone.

    regularise(backbone, Regulariser(dropout=0.3, hidden=0.2, mask_token_id=511))

Dropout acts on the embeddings and on what attention and feed-forward layers add, as in the first Transformers. Hidden
inputs are tokens that the model reads as masks: for a next-token model a noise on its context that it isn't asked to
undo, for a diffusion model masks beyond those that are scored. Both act in training mode alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llada import BidirectionalTransformer


@dataclass(frozen=True)
class Regulariser:
    """What is left out at random.

    Args:
        dropout: probability of an entry of a vector.
        hidden: probability that a token is read as a mask; never the first of a row.
        mask_token_id: of that mask.
    """

    dropout: float = 0.0
    hidden: float = 0.0
    mask_token_id: int = -1

    def drop(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        """A forward hook."""
        return functional.dropout(output, self.dropout, module.training)

    def hide(self, module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
        """A forward hook in front of the embedding: tokens (B, L) int64."""
        if not module.training:
            return None
        (tokens,) = arguments
        hidden = torch.rand(tokens.shape, device=tokens.device) < self.hidden
        hidden[..., 0] = False
        return (tokens.masked_fill(hidden, self.mask_token_id),)


def regularise(backbone: BidirectionalTransformer, how: Regulariser) -> None:
    """Hook a regulariser into a backbone, for good.

    Args:
        backbone: changed.
        how: what is left out.
    """
    if how.hidden:
        backbone.embedding.register_forward_pre_hook(how.hide)
    if how.dropout:
        backbone.embedding.register_forward_hook(how.drop)
        for block in backbone.blocks:
            block.attention.o_proj.register_forward_hook(how.drop)
            block.feed_forward.register_forward_hook(how.drop)
