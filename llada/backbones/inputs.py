"""Checks of a backbone's arguments, and the positions that its tokens are rotated by."""

from typing import Any

import torch
from torch import Tensor

from llada import rows
from llada.backbones.cache import KeyValueCache, Region
from llada.backbones.sizes import check_sizes


def check_inputs(
    tokens: Tensor,
    segment_ids: Tensor | None,
    cache: KeyValueCache | None,
    region: Region | None,
    *,
    vocab_size: int,
    max_length: int,
) -> None:
    """Whether a backbone can run on these arguments.

    Args:
        tokens: (B, L) int64. Their values are checked on the CPU only, where looking at them costs no waiting, and
            not in a compiled graph.
        segment_ids: (B, L) integers for packed rows, or None.
        cache: keys and values of the canvas that ``tokens`` are a part of, or None.
        region: where ``tokens`` stand on that canvas, or None.
        vocab_size: number of token ids, V.
        max_length: longest row or canvas that is accepted, in tokens.

    Raises:
        ValueError: if it can't, saying why.
    """
    length = tokens.shape[1] if cache is None else cache.length
    if length > max_length:
        raise ValueError(
            f"the row has {length} tokens but this backbone accepts at most max_length={max_length}; "
            "shorten the prompt or the answer, or build it with a larger max_length"
        )
    if tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling():
        low, high = (int(value) for value in torch.aminmax(tokens))
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside of the vocabulary 0 .. {vocab_size - 1}; "
                "was the text encoded with another model's tokenizer?"
            )
    if (cache is None) != (region is None):
        raise ValueError("cache and region go together: give both or neither")
    if cache is not None and segment_ids is not None:
        raise ValueError("a cached region can't be combined with packed segments")


def rotary_positions(tokens: Tensor, segment_ids: Tensor | None, region: Region | None) -> Tensor:
    """What the rotation of each token is computed from, (L,) or (B, L).

    Rows without segments share their columns, (L,): padding in front shifts a whole row, which a rotation doesn't see.
    """
    if isinstance(region, Tensor):
        return region
    if segment_ids is not None:
        return rows.positions(tokens, segment_ids=segment_ids)
    start = 0 if region is None else region.start
    return torch.arange(start, start + tokens.shape[1], device=tokens.device)


def check_heads(
    width: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None, rotary_dim: int | None = None
) -> None:
    """Whether widths and heads are sizes, and divide.

    Raises:
        ValueError: if they don't, saying which.
    """
    check_sizes(width=width, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
    if head_dim is None and width % num_heads:
        raise ValueError(f"width={width} isn't divisible by num_heads={num_heads}; choose another or give head_dim")
    if num_kv_heads is not None and num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads={num_kv_heads} must divide num_heads={num_heads}")
    head = width // num_heads if head_dim is None else head_dim
    if rotary_dim is None and head % 2:
        told = f"{width=}, {num_heads=}" if head_dim is None else f"{head_dim=}"
        raise ValueError(f"rotary embedding needs an even head width; got {told}")
    if rotary_dim is not None and (rotary_dim % 2 or not 2 <= rotary_dim <= head):
        raise ValueError(f"rotary_dim must be even and in 2 .. {head}, the width of a head; got {rotary_dim}")


def check_mixture(num_experts: int, feed_forward: Any, **of_mixtures: Any) -> None:
    """Whether the feed-forward layers are described once, and nothing is said of a mixture that isn't there.

    Args:
        num_experts: 0 for no mixture.
        feed_forward: what makes each layer instead, or None.
        of_mixtures: arguments that only a mixture reads; 0 and None are nothing said.

    Raises:
        ValueError: naming the argument.
    """
    if feed_forward is not None and num_experts:
        raise ValueError(f"give feed_forward or num_experts, not both; got {feed_forward} and {num_experts=}")
    for name, value in of_mixtures.items():
        if value and not num_experts:
            raise ValueError(f"{name}={value} is of a mixture of experts; give num_experts, or leave it out")
