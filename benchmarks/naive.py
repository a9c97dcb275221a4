"""What the library is compared with: loops with the cost profile of the code that papers release.

All logits of the whole canvas at every step, in float32; float64 noise over all of them; a Python loop over the rows.
The network itself is the library's own, so that only the work around it differs.
"""

import torch
from torch import Tensor, nn


def quotas(num_masks: int, steps: int) -> list[int]:
    """Tokens per step: as even as integers allow, the remainder first."""
    return [num_masks // steps + (step < num_masks % steps) for step in range(steps)]


@torch.no_grad()
def low_confidence(
    model: nn.Module, prompt: Tensor, num_new: int, steps: int, block: int, temperature: float, mask: int
) -> Tensor:
    """Low-confidence remasking, block by block.

    Args:
        model: tokens (B, L) -> logits (B, L, V).
        prompt: (B, P) int64.
        num_new: masks behind the prompt.
        steps: for all blocks together.
        block: tokens per block.
        temperature: of the draw.
        mask: id of the mask token.

    Returns:
        (B, P + num_new) int64.
    """
    rows, start = prompt.shape
    canvas = torch.cat((prompt, torch.full((rows, num_new), mask)), 1)
    per_block = steps // (num_new // block)
    for first in range(start, start + num_new, block):
        last = first + block
        counts = [quotas(int((canvas[row, first:last] == mask).sum()), per_block) for row in range(rows)]
        for step in range(per_block):
            logits = model(canvas).float()
            logits[..., mask] = -torch.inf
            noisy = logits
            if temperature > 0:
                wide = logits.double()
                noisy = wide.exp() / (-torch.rand_like(wide).log()) ** temperature
            proposed = noisy.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, proposed[..., None])[..., 0]
            confidence[:, last:] = -torch.inf
            confidence = torch.where(canvas == mask, confidence, -torch.inf)
            for row in range(rows):
                chosen = confidence[row].topk(counts[row][step]).indices
                canvas[row, chosen] = proposed[row, chosen]
    return canvas


@torch.no_grad()
def ancestral(model: nn.Module, rows: int, length: int, steps: int, mask: int) -> tuple[Tensor, int]:
    """MDLM's ancestral sampling with its cache: a step that changed nothing costs no call, but the draw is made anyway.

    Returns:
        (rows, length) int64, and the number of model calls.
    """
    canvas = torch.full((rows, length), mask)
    calls, probability = 0, None
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        if probability is None:
            logits = model(canvas).float()
            logits[..., mask] = -torch.inf
            probability, calls = logits.softmax(-1).double(), calls + 1
        q = probability * (t - s)
        q[..., mask] = s
        drawn = (q / -torch.rand_like(q).log()).argmax(-1)
        changed = torch.where(canvas == mask, drawn, canvas)
        if not torch.equal(changed, canvas):
            probability = None
        canvas = changed
    return canvas, calls
