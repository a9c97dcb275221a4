"""What the library is compared with: loops with the cost profile of the code that papers release.

All logits of the whole canvas at every step, in float32; float64 noise over all of them; a Python loop over the rows.
The network itself is the library's own, so that only the work around it differs.
"""

import torch
import torch.nn.functional as F
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


def training_loss(model: nn.Module, noised: Tensor, x_0: Tensor, masked: Tensor, t: Tensor) -> Tensor:
    """The bound with weight 1/t: logits at all positions, cross-entropy over the transposed cube, then a mask.

    Args:
        model: tokens (B, L) -> logits (B, L, V).
        noised: (B, L) int64, the model's input.
        x_0: (B, L) int64.
        masked: (B, L) bool.
        t: (B,), the noise level.

    Returns:
        () nats per token.
    """
    logits = model(noised).float()
    nll = F.cross_entropy(logits.transpose(1, 2), x_0, reduction="none")
    return (nll * masked * (1 / t)[:, None].float()).sum() / x_0.numel()


@torch.no_grad()
def log_likelihood(
    model: nn.Module, prompt: Tensor, answer: Tensor, masks: Tensor, weights: Tensor, batch_size: int, mask: int
) -> float:
    """Monte-Carlo log-likelihood of an answer: logits of prompt and answer, cross-entropy at the masked ones.

    Args:
        model: tokens (B, L) -> logits (B, L, V).
        prompt: (P,) int64.
        answer: (A,) int64.
        masks: (N, A) bool, one row per sample.
        weights: (N,), of a sample's sum.
        batch_size: samples per model call.
        mask: id of the mask token.

    Returns:
        Nats.
    """
    tokens = torch.cat((prompt, answer))
    total = 0.0
    for start in range(0, len(masks), batch_size):
        masked = torch.zeros(len(masks[start : start + batch_size]), len(tokens), dtype=torch.bool)
        masked[:, len(prompt) :] = masks[start : start + batch_size]
        canvas = torch.where(masked, mask, tokens)
        logits = model(canvas).float()
        nll = F.cross_entropy(logits[masked], tokens.expand_as(canvas)[masked], reduction="none")
        rows = masked.nonzero()[:, 0]
        total -= float((nll * weights[start + rows]).sum())
    return total


def collate_lists(rows: list[list[int]], fill: int) -> dict[str, Tensor]:
    """Lists of token ids to tensors, as collators do it that were written for text of any length."""
    width = max(map(len, rows))
    padded = [row + [fill] * (width - len(row)) for row in rows]
    seen = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {"tokens": torch.tensor(padded), "attention_mask": torch.tensor(seen)}
