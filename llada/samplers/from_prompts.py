"""From prompts to a canvas: prompts of different lengths, padded on the left, with a masked tail."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Canvas(NamedTuple):
    """A batch to be filled.

    Attributes:
        tokens: (B, L) int64.
        attention_mask: (B, L) bool, true for everything but the padding.
        given: (B, L) bool, positions that are never written: the prompts and the padding.
    """

    tokens: Tensor
    attention_mask: Tensor
    given: Tensor


def canvas(
    prompts: Sequence[Sequence[int] | Tensor],
    num_new_tokens: int,
    *,
    mask_token_id: int,
    pad_token_id: int,
    literal: bool = False,
    device: torch.device | str | None = None,
) -> Canvas:
    """Prompts followed by ``num_new_tokens`` masks, aligned at the end of the prompts.

    Args:
        prompts: token ids, one sequence per row; may be empty.
        num_new_tokens: masks behind each prompt.
        mask_token_id: the mask.
        pad_token_id: what shorter prompts get in front.
        literal: whether a mask token inside a prompt is text like any other. False: it is a gap that is filled too.
        device: where the result is wanted.

    Raises:
        ValueError: if there is no prompt, or nothing to fill.
    """
    if not prompts:
        raise ValueError("no prompts were given; pass at least one, which may be empty")
    if num_new_tokens < 0:
        raise ValueError(f"num_new_tokens must be 0 or more; got {num_new_tokens}")
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width + num_new_tokens), mask_token_id, dtype=torch.int64)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        padding = width - len(prompt)
        tokens[row, :padding] = pad_token_id
        mask[row, :padding] = False
        tokens[row, padding:width] = torch.as_tensor(prompt, dtype=torch.int64)
    given = ~mask
    given[:, :width] |= True if literal else tokens[:, :width] != mask_token_id
    return Canvas(tokens.to(device), mask.to(device), given.to(device))
