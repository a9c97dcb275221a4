"""The models that the benchmarks share, with random weights, and how much arithmetic and memory traffic they need."""

from typing import Any

import torch
from torch import nn

from llada.backbones import BidirectionalTransformer
from llada.training.flops import forward_flops

SHAPES: dict[str, dict[str, Any]] = {
    "LLaDA 1B": {
        "vocab_size": 126_464, "width": 2048, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4,
        "hidden_width": 5632,
    },
    "LLaDA 1B as published": {
        "vocab_size": 126_464, "width": 2048, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4,
        "hidden_width": 5634,
    },
    "LLaDA 8B": {
        "vocab_size": 126_464, "width": 4096, "num_layers": 32, "num_heads": 32, "hidden_width": 12_288,
    },
    "tiny": {
        "vocab_size": 500, "width": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "hidden_width": 64,
    },
}  # fmt: skip
"""Arguments of `BidirectionalTransformer`. Those of 1B are the shape whose totals are the published 1.49 and 0.97
billion parameters, with and without embeddings. Rows of 5634 numbers in half precision are no multiple of 16 bytes,
which fast matrix products ask for, so speed is measured at 5632, and at 5634 in one line beside."""


def build(vocab_size: int, width: int = 256, num_layers: int = 6) -> BidirectionalTransformer:
    """LLaDA's shape scaled down, for a CPU, in float32.

    Args:
        vocab_size: V; the last token is the mask.
        width: D, a multiple of 64 or at most 64.
        num_layers: blocks.
    """
    torch.manual_seed(0)
    heads = max(1, width // 64)
    return BidirectionalTransformer(vocab_size, width, num_layers, heads, hidden_width=3 * width)


def build_on(device: str, dtype: torch.dtype, shape: str, **options: Any) -> BidirectionalTransformer:
    """One of `SHAPES`, made on its device; nothing of it is ever held elsewhere.

    Args:
        device: where it is to live.
        dtype: of its parameters.
        shape: key of `SHAPES`.
        options: further arguments of the network.
    """
    with torch.device("meta"):
        model = BidirectionalTransformer(**{**SHAPES[shape], **options}).to(dtype)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=model.width**-0.5)
    return model


def body_flops(model: BidirectionalTransformer, rows: int, length: int, last: int, keys: int | None = None) -> float:
    """Floating-point operations of one forward pass of the body.

    Matrix products and attention only. What follows the last attention is counted for the rows that are wanted.

    Args:
        model: the network.
        rows: B.
        length: L, tokens per row.
        last: rows that are wanted, of B * L.
        keys: that a token looks at; None for L.
    """
    count, tokens = forward_flops(model), rows * length
    after = 2.0 * model.width * (model.num_heads * model.head_dim + 3 * model.hidden_width)
    seen = length if keys is None else keys
    return tokens * (count.per_token + seen * count.per_pair) - (tokens - last) * after


def head_flops(model: BidirectionalTransformer, rows: int) -> float:
    """Floating-point operations of the head on some rows, forward."""
    return rows * forward_flops(model).per_scored


def step_bytes(model: BidirectionalTransformer, rows: int, keys: int) -> float:
    """Memory that a decoding step must read: every weight but the input table, and the keys and values.

    Args:
        model: the network.
        rows: B.
        keys: per row.
    """
    size = model.embedding.weight.element_size()
    weights = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    return float(size * (weights + rows * keys * 2 * model.num_layers * model.num_kv_heads * model.head_dim))
