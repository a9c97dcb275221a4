"""What a layer of a body is, and what it is told beside the tokens.

    layer(x (B, L, D), context, select) -> (B, L, D), or (N, D) where ``select`` gives flat indices into B * L

Shapes: B rows, L tokens of a row, D width, N selected tokens, C width of a condition, R conditions: one per row of the
batch (R = B), or one for all of them (R = 1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.attention.visibility import Visibility
from llada.backbones.cache import Cached
from llada.backbones.checkpointing import Checkpointing
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

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer, Layer
        >>> class Mean(Layer):
        ...     def forward(self, x, context, select):
        ...         x = x + x.mean(1, keepdim=True)
        ...         return x if select is None else x.flatten(0, 1)[select]
        >>> class Model(BidirectionalTransformer):
        ...     def new_block(self, layer):
        ...         return Mean()
        >>> Model(vocab_size=9, width=8, num_layers=2, num_heads=2)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 9])
    """

    _compiled_recomputed: Any = None

    @override
    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the layer in place, alone and with what is recomputed of it; arguments as those of `torch.compile`.

        A policy of recomputation chooses among the operations of a layer, so the compiler must see it: of a layer that
        is compiled already it sees generated code, and recognises nothing to keep.
        """
        super().compile(*arguments, **options)
        self._compiled_recomputed = torch.compile(_recomputed, *arguments, **options)

    def recomputed(self, policy: Checkpointing, index: int, *arguments: Any) -> Tensor:
        """What a call gives, of which only a part is kept for the backward pass.

        Args:
            policy: says what is kept.
            index: of the layer in its body.
            arguments: of the call.
        """
        if not policy.recomputes(index):
            result = self(*arguments)
        elif self._compiled_recomputed is None:
            result = policy(self, *arguments)
        else:  # what surrounds the call, such as the gathering of a shard, stays out of the graph
            vars(self)["forward"] = partial(self._compiled_recomputed, policy, self.forward)
            try:
                result = self._call_impl(*arguments)  # type: ignore[no-untyped-call]
            finally:
                del vars(self)["forward"]
        assert isinstance(result, Tensor)
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, as of any module."""
        state = super().__getstate__()  # type: ignore[no-untyped-call]
        state.pop("_compiled_recomputed", None)
        return dict(state)

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


def _recomputed(policy: Checkpointing, forward: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """A layer under a policy, for the compiler to see as a whole."""
    return policy(forward, *arguments)
