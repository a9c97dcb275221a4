"""A sharding group (FSDP2) for the vocabulary head alone.

The head is the largest matrix beside the embedding. In a group of its own it is gathered when the loss begins, not with
what is needed from the first layer on; and its gradient, which is there before any block's, is summed over ranks while
the backward pass goes through the blocks.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from llada.heads.frame import FRAME

T = TypeVar("T")


def shard_head(backbone: nn.Module, **options: Any) -> bool:
    """Give the head of a backbone a group of its own, where it has parameters that nothing else has.

    A matrix that is the embedding's as well gets its gradient at the very end of the backward pass; it stays with what
    is around the blocks.

    Args:
        backbone: to be changed in place, before its own group is made.
        options: of PyTorch's ``fully_shard``.

    Returns:
        Whether a group was made.
    """
    head = getattr(backbone, "head", None)
    if not isinstance(head, nn.Module) or isinstance(head, FSDPModule):
        return False
    own, inside = {id(parameter) for parameter in head.parameters()}, {id(module) for module in head.modules()}
    others = [module for module in backbone.modules() if id(module) not in inside]
    if not own or any(id(p) in own for module in others for p in module.parameters(recurse=False)):
        return False
    kind, before = type(head), {*head._forward_pre_hooks, *head._forward_hooks}
    # Whole until the backward pass: the loss makes its gradient on the way, so there it ends.
    fully_shard(head, reshard_after_forward=False, **options)

    def frame(compute: Callable[[Any, Tensor], T], hidden: Tensor) -> T:
        return compute(_without_new_hooks(head, kind, before), hidden)

    setattr(head, FRAME, frame)
    register_fsdp_forward_method(head, FRAME)
    return True


def _without_new_hooks(head: nn.Module, kind: type[nn.Module], kept: set[int]) -> nn.Module:
    """The same parameters in a module with the older hooks alone: each of the new ones would gather."""
    view = object.__new__(kind)
    vars(view).update(vars(head))
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        vars(view)[name] = OrderedDict((key, hook) for key, hook in vars(head)[name].items() if key in kept)
    return view
