"""What a layer of a body is, and what it is told beside the tokens.

    layer(x (B, L, D), context, select) -> (B, L, D), or (N, D) where ``select`` gives flat indices into B * L

Shapes: B rows, L tokens of a row, D width, N selected tokens, C width of a condition, R conditions: one per row of the
batch (R = B), or one for all of them (R = 1).
"""

from typing import NamedTuple

from torch import Tensor, nn

from llada.backbones.attention.visibility import Visibility
from llada.backbones.cache import Cached
from llada.backbones.convolution import Neighbours
from llada.backbones.rotary import Rotation


class Context(NamedTuple):
    """What a layer is told beside the tokens.

    Attributes:
        rotation: the rotation of each token's position.
        visibility: which token may see which.
        neighbours: the tokens beside each token, for layers that read them.
        condition: (R, C) what steers the layers, such as the noise level; None for models without.
        cached: keys and values of the canvas that the tokens are a part of; None if the tokens are all there is.
    """

    rotation: Rotation
    visibility: Visibility
    neighbours: Neighbours
    condition: Tensor | None = None
    cached: Cached | None = None


class Layer(nn.Module):
    """A layer of a body, called as ``layer(x, context, select)``.

    Attention needs every token, but what follows it need be computed for the selected ones only, which are returned.
    A layer says itself what may be done with it. These answers are safe for any layer; override those that can be
    better.
    """

    @property
    def reads_padding(self) -> bool:
        """Whether a real token's result depends on where padding stands, so that padding can't be left out."""
        return True

    @property
    def partial_updates(self) -> bool:
        """Whether the layer can compute a few tokens afresh, see `llada.backbones.features`.

        It then has ``attend``, ``feed`` and ``values`` as `llada.backbones.layers.Block` has, and does nothing else.
        """
        return False
