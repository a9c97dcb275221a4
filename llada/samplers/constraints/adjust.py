"""Changes of the logits before a token is proposed: constraints, and memories of earlier steps."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from llada.samplers.propose import Candidates


class Adjustment(ABC):
    """Edits the logits of the candidates."""

    remembers: ClassVar[bool] = False
    """Whether what it does depends on the steps before."""
    restricts: ClassVar[bool] = False
    """Whether it rules tokens out."""
    joint: ClassVar[bool] = False
    """Whether what it allows at a place depends on what is written at others.

    Then the tokens of one step are brought to agree (`llada.samplers.constraints.joint`), and no other adjustment may rule tokens
    out, since it would have to know."""

    @abstractmethod
    def __call__(self, logits: Tensor, candidates: Candidates) -> Tensor:
        """Adjust.

        Args:
            logits: (B, M, V) float32; not edited.
            candidates: where they are.

        Returns:
            (B, M, V) float32.
        """

    def start(
        self, tokens: Tensor, offset: Tensor, mask_token_id: int, forbidden: tuple[int, ...] = ()
    ) -> "Adjustment":
        """What one run uses, if that depends on the canvas or remembers earlier steps.

        Args:
            tokens: (B, L) int64, the canvas before the first step.
            offset: (B, 1) int64, the padding in front of each row.
            mask_token_id: the mask.
            forbidden: tokens that the proposal never writes.

        Raises:
            ValueError: if the canvas can't be decoded under it.
        """
        return self

    def check(self, forbidden: tuple[int, ...]) -> None:
        """Whether it can work with a proposal that never writes certain tokens.

        Raises:
            ValueError: if it can't.
        """
        return
