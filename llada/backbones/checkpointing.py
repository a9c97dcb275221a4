"""What of a block's forward pass is kept for the backward pass, and what is computed again.

Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174; Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from typing_extensions import override


class Checkpointing(ABC):
    """Runs a block so that less of its forward pass is kept for the backward pass."""

    def recomputes(self, layer: int) -> bool:
        """Whether anything of the block with this index is computed again."""
        return True

    @abstractmethod
    def __call__(self, block: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """``block(*arguments)``.

        Args:
            block: the block.
            arguments: what the block is called with.
        """


@dataclass(frozen=True)
class EveryBlock(Checkpointing):
    """Of every n-th block only the input is kept: the least memory, for up to a third more time at n = 1.

    Args:
        n: 1 for all blocks.

    Raises:
        ValueError: if ``n`` is less than 1.

    Examples:
        >>> from llada.backbones import BidirectionalTransformer, EveryBlock
        >>> policy = EveryBlock(n=2)
        >>> model = BidirectionalTransformer(9, 8, num_layers=4, num_heads=2, activation_checkpointing=policy)
        >>> [policy.recomputes(layer) for layer in range(4)]
        [True, False, True, False]
    """

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be 1 or more; got {self.n}")

    @override
    def recomputes(self, layer: int) -> bool:
        return layer % self.n == 0

    @override
    def __call__(self, block: Callable[..., Tensor], *arguments: Any) -> Tensor:
        result = checkpoint(block, *arguments, use_reentrant=False)
        assert isinstance(result, Tensor)
        return result


@dataclass(frozen=True)
class Selective(Checkpointing):
    """The results of attention and of matrix products are kept, all else is computed again: little time, some memory.

    Args:
        n: keep every n-th matrix product of a block; 1 for all of them.

    Raises:
        ValueError: if ``n`` is less than 1.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer, Selective
        >>> model, tokens = BidirectionalTransformer(9, 8, num_layers=2, num_heads=2), torch.tensor([[1, 2, 3]])
        >>> gradients = []
        >>> for model.activation_checkpointing in (False, Selective(n=2)):
        ...     gradients += torch.autograd.grad(model(tokens).logsumexp(2).sum(), model.embedding.weight)
        >>> torch.equal(*gradients)  # it changes what is kept, and no number
        True
    """

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be 1 or more; got {self.n}")

    @override
    def __call__(self, block: Callable[..., Tensor], *arguments: Any) -> Tensor:
        result = checkpoint(block, *arguments, use_reentrant=False, context_fn=partial(_keeping, self.n))
        assert isinstance(result, Tensor)
        return result


def as_checkpointing(value: bool | Checkpointing) -> Checkpointing | None:
    """The policy that ``True`` stands for, which is `EveryBlock`, or that is given; None for ``False``."""
    if isinstance(value, Checkpointing):
        return value
    return EveryBlock() if value else None


_MATRIX_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
_ATTENTION = (
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._flash_attention_forward",
    "torch_attn._varlen_attn",
    "flash_attn._flash_attn_forward",
    "flash_attn._flash_attn_varlen_forward",
    "flash_attn_3.fwd",
    "flash_attn_3._flash_attn_forward",
)


def _keeping(n: int) -> tuple[Any, Any]:
    """Contexts of a block's forward pass and of its repetition: attention and every n-th matrix product are kept."""
    attention = _attention()
    counts = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operation in attention:
            return CheckpointPolicy.MUST_SAVE
        if operation in _MATRIX_PRODUCTS:
            counts[context.is_recompute] += 1
            if (counts[context.is_recompute] - 1) % n == 0:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(policy)
    return contexts


def _attention() -> set[Any]:
    """Attention operations that are registered: a package's own are once it is imported."""
    found = set()
    for name in _ATTENTION:
        library, operation = name.split(".")
        packet = getattr(getattr(torch.ops, library), operation, None)
        found.update([] if packet is None else [packet.default])
    flex = getattr(torch.ops.higher_order, "flex_attention", None)
    return found if flex is None else found | {flex}
