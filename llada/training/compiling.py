"""Compilation of a backbone block by block: the blocks are alike, so that one graph serves them all.

Training and sampling run `hidden` and `head` of a backbone, not its ``forward``; so a backbone that is compiled as a
whole would be compiled for nothing. What a user says of the whole is therefore done to its blocks.
"""

from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule

from llada.training.parallel import blocks_of


def compile_blocks(backbone: nn.Module, *arguments: Any, **options: Any) -> int:
    """Compile the blocks of a backbone in place: names of weights and what a checkpoint holds stay as they are.

    Args:
        backbone: with its blocks in an `nn.ModuleList`.
        arguments: of `torch.compile`.
        options: of `torch.compile`, such as ``dynamic`` and ``backend``.

    Returns:
        How many blocks there are.

    Raises:
        ValueError: if there are none.
    """
    blocks = blocks_of(backbone)
    if not blocks:
        raise ValueError(
            f"{type(backbone).__name__} has no nn.ModuleList of blocks to compile; compile parts of it by hand"
        )
    for block in blocks:
        block.compile(*arguments, **options)
    return len(blocks)


def without_compiler(backbone: Any) -> Any:
    """A backbone that was given to `torch.compile`, as itself, with its blocks compiled in the same way.

    Args:
        backbone: what ``torch.compile(backbone)`` returned; any other one is returned as it is.
    """
    if not isinstance(backbone, OptimizedModule):
        return backbone
    inner = backbone._orig_mod
    for block in blocks_of(inner) or [inner]:
        block._compiled_call_impl = backbone.dynamo_ctx(block._call_impl)  # what nn.Module.compile does
    return inner


def without_compilers(module: nn.Module) -> None:
    """Put compiled parts of a module, such as ``blocks[0] = torch.compile(block)``, in their wrappers' places.

    The wrappers would change the names of weights in checkpoints. The parts stay compiled.

    Args:
        module: to be changed in place.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, OptimizedModule):
                child._orig_mod._compiled_call_impl = child.dynamo_ctx(child._orig_mod._call_impl)
                setattr(parent, name, child._orig_mod)
