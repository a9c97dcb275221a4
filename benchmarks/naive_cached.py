"""Cached decoding with the cost profile of the code that the Fast-dLLM paper releases, on the library's own weights.

Keys are kept as they are before rotation, so that all of them are rotated again, in float32, in every pass; the prefix
mode joins the kept and the fresh ones into a new tensor, the dual mode writes them by an index that is looked up on the
way. Logits of everything that is fed, a float64 softmax over them, and a Python loop over rows and tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.backbones import BidirectionalTransformer

Past = list[tuple[Tensor, Tensor]]
"""Keys before rotation and values of each layer, (B, H, L, d)."""


def _rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    half = x.shape[-1] // 2
    angles = positions.float()[:, None] * theta ** -(torch.arange(half) / half)
    a, b = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Reference:
    """A network that is run on a part of a canvas.

    Args:
        model: whose weights it uses; without grouped heads.
        dual: whether keys of the region are replaced within those of the whole canvas; else they follow the kept ones.
    """

    def __init__(self, model: BidirectionalTransformer, dual: bool) -> None:
        self.model, self.dual = model, dual

    def __call__(self, tokens: Tensor, past: Past | None, replaced: Tensor | None) -> tuple[Tensor, Past]:
        """Logits (B, Q, V) of tokens (B, Q), and the new keys and values.

        Args:
            tokens: the part.
            past: what is kept of the canvas; None for a pass over all of it.
            replaced: (B, L) bool, where the part stands, in the dual mode.
        """
        model, kept = self.model, []
        x = model.embedding(tokens)
        for layer, block in enumerate(model.blocks):
            gathered, pair = self._attend(block, x, None if past is None else past[layer], replaced)
            kept.append(pair)
            x = x + block.attention.o_proj(gathered)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return model.head(model.final_norm(x)), kept

    def _attend(
        self, block: Any, x: Tensor, pair: tuple[Tensor, Tensor] | None, replaced: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        normed, shape = block.attention_norm(x), (*x.shape[:2], self.model.num_heads, self.model.head_dim)
        projections = (block.attention.q_proj, block.attention.k_proj, block.attention.v_proj)
        q, k, v = (project(normed).view(shape).transpose(1, 2) for project in projections)
        where = torch.arange(x.shape[1])
        if pair is not None and replaced is not None:
            where = replaced.nonzero(as_tuple=True)[1]
            keys, values = pair
            keys[:, :, where], values[:, :, where] = k, v
            k, v = keys, values
        elif pair is not None:
            where = where + pair[0].shape[2]
            k, v = torch.cat((pair[0], k), 2), torch.cat((pair[1], v), 2)
        theta = self.model.rope_theta
        turned = _rotate(q, where, theta), _rotate(k, torch.arange(k.shape[2]), theta)
        result = F.scaled_dot_product_attention(*turned, v)
        return result.transpose(1, 2).flatten(2), (k, v)


@torch.no_grad()
def decode(
    reference: Reference | None,
    model: BidirectionalTransformer,
    prompt: Tensor,
    num_new: int,
    block: int,
    threshold: float | None,
    mask: int,
) -> tuple[Tensor, int]:
    """Greedy decoding by confidence in blocks: one token per step, or all above a threshold and always the best one.

    Args:
        reference: the cached network; None for the plain model on the whole canvas.
        model: the same without cache.
        prompt: (1, P) int64.
        num_new: masks behind it, a multiple of the block.
        block: tokens per block.
        threshold: least probability; None for one token per step.
        mask: id of the mask token.

    Returns:
        (1, P + num_new) int64, and the number of passes.
    """
    start, calls = prompt.shape[1], 0
    canvas = torch.cat((prompt, torch.full((1, num_new), mask)), 1)
    for first in range(start, start + num_new, block):
        last, past = first + block, None
        while bool((canvas[:, first:last] == mask).any()):
            begin, calls = 0, calls + 1
            if reference is None:
                logits = model(canvas)
            elif past is None:
                logits, past = reference(canvas, None, None)
                if not reference.dual:
                    past = [(keys[:, :, :first], values[:, :, :first]) for keys, values in past]
            elif reference.dual:
                replaced = torch.zeros_like(canvas, dtype=torch.bool)
                replaced[:, first:last], begin = True, first
                logits, past = reference(canvas[:, first:last], past, replaced)
            else:
                begin = first
                logits, _ = reference(canvas[:, first:], past, None)
            _commit(canvas, logits, begin, last, threshold, mask)
    return canvas, calls


def _commit(canvas: Tensor, logits: Tensor, begin: int, last: int, threshold: float | None, mask: int) -> None:
    """Write into the canvas, given the logits of its columns from ``begin`` on."""
    part = canvas[:, begin : begin + logits.shape[1]]
    logits = logits.clone()
    logits[..., mask] = -torch.inf
    proposed = logits.argmax(-1)
    confidence = logits.double().softmax(-1).gather(-1, proposed[..., None])[..., 0]
    masked = part == mask
    masked[:, last - begin :] = False
    confidence = torch.where(masked, confidence, -torch.inf)
    for row in range(len(part)):
        count = int(masked[row].sum()) if threshold is not None else 1
        values, chosen = confidence[row].topk(count)
        for rank in range(count):
            if rank and threshold is not None and values[rank] < threshold:
                break
            part[row, chosen[rank]] = proposed[row, chosen[rank]]
