"""Floating-point operations of a training step, by formula: matrix products only, three times the forward pass.

    forward = 2 T n + 2 S (m + D V) + 4 D p

with T tokens in the body and n parameters of its matrices, S scored tokens, V the vocabulary and D the width, and p
pairs of a query and a key that it may see, over all layers. The m parameters behind the last attention, its output
projection and feed-forward layer, run on the scored tokens only, and so does the head. Muon's iterations are counted
too.

`llada.training.flops` has the usual formula, which lets the last layer run on all tokens; here the models differ in
just that.
"""

import torch

from llada import BidirectionalTransformer


def pairs_per_row(backbone: BidirectionalTransformer, length: int) -> int:
    """Queries times keys of one layer that a training row needs, those of a clean copy included where there are blocks.

    Args:
        backbone: says who sees whom.
        length: L.
    """
    if backbone.causal:
        return length * (length + 1) // 2
    if backbone.block_length is None:
        return length * length
    block = torch.arange(length) // backbone.block_length
    own, earlier = (int(sees(block[:, None], block).sum()) for sees in (torch.eq, torch.gt))
    return 2 * (own + earlier)  # a noisy token and a clean one see as much


def row_flops(backbone: BidirectionalTransformer, length: int, scored: float) -> float:
    """Of one row, forward and backward.

    Args:
        backbone: its sizes count.
        length: L.
        scored: tokens of the row that are scored.
    """
    width, layers, inner = backbone.width, backbone.num_layers, backbone.num_heads * backbone.head_dim
    before = width * (inner + 2 * backbone.num_kv_heads * backbone.head_dim + backbone.convolution)
    behind = inner * width + 3 * width * backbone.hidden_width
    tokens = length if backbone.block_length is None else 2 * length
    matrices = tokens * (layers * before + (layers - 1) * behind) + scored * (behind + width * backbone.vocab_size)
    return 3 * (2 * matrices + 4 * inner * layers * pairs_per_row(backbone, length))


def muon_flops(backbone: BidirectionalTransformer, iterations: int = 5) -> float:
    """Of one step of Muon on the blocks' matrices: X <- a X + (b A + c A A) X with A = X X^T, some times.

    Args:
        backbone: whose matrices.
        iterations: how many times.
    """
    shapes = [sorted(p.shape) for p in backbone.blocks.parameters() if p.ndim == 2]
    return float(sum(iterations * (4 * short * short * long + 2 * short**3) for short, long in shapes))
