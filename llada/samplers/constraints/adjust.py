"""Changes of the logits before a token is proposed: constraints, and memories of earlier steps."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from llada.samplers.part import Part
from llada.samplers.state import State


class Adjustment(Part, ABC):
    """Edits the logits of the candidates."""

    remembers: ClassVar[bool] = False
    """Whether what it does depends on the steps before."""
    restricts: ClassVar[bool] = False
    """Whether it rules tokens out."""
    joint: ClassVar[bool] = False
    """Whether what it allows at a position depends on what is written at others.

    Then the tokens of one step are brought to agree (`llada.samplers.constraints.joint`), and no other adjustment may
    rule tokens out, since it would have to know."""

    @abstractmethod
    def __call__(self, logits: Tensor, state: State) -> Tensor:
        """Adjust.

        Args:
            logits: (B, M, V) float32; not edited.
            state: the step; ``state.columns`` and ``state.positions`` (B, M) are where the candidates stand.

        Returns:
            (B, M, V) float32.
        """

    def start(self, state: State, suppress_tokens: tuple[int, ...] = ()) -> "Adjustment":
        """What one run uses, if that depends on the canvas or remembers earlier steps.

        Args:
            state: before the first step, without candidates.
            suppress_tokens: tokens that the proposal never writes.

        Raises:
            ValueError: if the canvas can't be decoded under it.
        """
        return self

    @override
    def check(self, sampler: Any) -> None:
        rules = [rule for rule in sampler.adjustments if rule.restricts or rule.joint]
        if self.joint and len(rules) > 1:
            others = [rule for rule in rules if rule is not self] or rules
            raise ValueError(
                f"{type(self).__name__} must know all that may be written, and {type(others[0]).__name__} rules tokens "
                "out without its knowledge; write what is certain into the canvas and the rest into one expression"
            )
