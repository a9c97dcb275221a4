"""What a process is given to corrupt, and what it gives back.

Shapes: B rows, L columns.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Noised(NamedTuple):
    """A corrupted batch.

    Attributes:
        tokens: x_t, (B, L) int64.
        scored: (B, L) bool, the tokens that the bound looks at: those that this call masked, or every maskable token
            where a random token can't be told from a clean one. A mask token that was in the data already isn't one.
    """

    tokens: Tensor
    scored: Tensor


def check_mask(mask_token_id: Any) -> None:
    """Whether a number can be the id of a token.

    Raises:
        ValueError: if not.
    """
    if not isinstance(mask_token_id, int) or mask_token_id < 0:
        raise ValueError(f"mask_token_id must be a token id, 0 or more; got {mask_token_id!r}")


def check_maskable(x_0: Tensor, maskable: Tensor | None) -> Tensor:
    """The maskable positions as a (B, L) bool tensor, all True by default.

    Raises:
        ValueError: if ``x_0`` isn't (B, L) or ``maskable`` isn't a bool tensor of its shape.
    """
    if x_0.ndim != 2 or x_0.is_floating_point():
        raise ValueError(f"tokens must be (B, L) integers; got {tuple(x_0.shape)} {x_0.dtype}")
    if maskable is None:
        return torch.ones_like(x_0, dtype=torch.bool)
    if maskable.shape != x_0.shape or maskable.dtype != torch.bool:
        raise ValueError(
            f"maskable must be bool of the tokens' shape {tuple(x_0.shape)}; "
            f"got {tuple(maskable.shape)} {maskable.dtype}"
        )
    return maskable


def check_data(x_0: Tensor, maskable: Tensor, num_tokens: int, mask: int | None) -> None:
    """That maskable tokens are data tokens; on the CPU, where looking at them costs no waiting.

    Args:
        x_0: clean tokens, (B, L) int64.
        maskable: (B, L) bool.
        num_tokens: random tokens are drawn from the ids 0 .. num_tokens - 1.
        mask: the mask token, if it is among these ids; else None.

    Raises:
        ValueError: if one of them isn't below ``num_tokens``, or is the mask.
    """
    if x_0.device.type != "cpu":
        return
    if bool(((x_0 >= num_tokens) & maskable).any()):
        raise ValueError(
            f"token {int(x_0[maskable].max())} isn't one of the num_tokens={num_tokens} data tokens, 0 .. "
            f"{num_tokens - 1}; give the process the size of the vocabulary, or exclude the token "
            "from maskable"
        )
    if mask is not None and bool(((x_0 == mask) & maskable).any()):
        raise ValueError(
            f"the data has the mask token {mask} at a maskable position, where it can't be told from noise; "
            "exclude it from maskable"
        )
