"""What a length policy is: after each call, which columns come and which go.

Shapes: B rows, L columns of the canvas, M columns that the model was asked about.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.part import Part
from llada.samplers.state import State


@dataclass(frozen=True, eq=False)
class Asked:
    """What a policy sees of a step, before anything is written.

    Attributes:
        state: the step; ``state.columns`` (B, M) are all that the model was asked about, ``state.valid`` those of them
            that may be written now.
        taken: (B, M) bool, what is going to be written.
        watched: (B, M) bool, what the policy had asked for.
        real: (B, L) bool, true for everything but padding.
        active: (B,) bool, rows that aren't finished.
        waiting: (B,) bool, rows that write nothing yet, because the policy is still looking for their length.
        most: tokens that a row may have beside those that are given.
        stop_token_ids: the tokens that end a row.
    """

    state: State
    taken: Tensor
    watched: Tensor
    real: Tensor
    active: Tensor
    waiting: Tensor
    most: int
    stop_token_ids: tuple[int, ...]

    @property
    def length(self) -> Tensor:
        """(B,) int64, tokens and masks of each row that aren't given."""
        return (self.real & ~self.state.given).sum(1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the M columns at their places among all, (B, L); 0 elsewhere."""
        nothing = values.new_zeros(self.state.tokens.shape)
        return nothing.scatter(1, self.state.columns, values)


@dataclass(frozen=True, eq=False)
class Change:
    """What a policy wants.

    Attributes:
        insert: (B, L + 1) int64, new columns in front of each; at the end of a row behind its last.
        delete: (B, L) bool, columns that go. What was written into one in this step goes with it.
        again: (B, L) bool, columns that become masks, whatever was written there.
        ended: (B,) bool, rows whose new columns hold the first stop token, and no mask.
        waiting: (B,) bool, rows that write nothing in the next step either.
    """

    insert: Tensor
    delete: Tensor
    again: Tensor
    ended: Tensor
    waiting: Tensor

    @classmethod
    def none(cls, asked: Asked) -> "Change":
        """No change; a start for those that are some."""
        rows, length = asked.real.shape
        no = torch.zeros_like(asked.real)
        insert = asked.real.new_zeros(rows, length + 1, dtype=torch.int64)
        return cls(insert, no, no, torch.zeros_like(asked.waiting), torch.zeros_like(asked.waiting))


class LengthPolicy(Part, ABC):
    """Changes the lengths of rows while they are decoded; without memory, each by what it sees of a row alone."""

    looks_everywhere: ClassVar[bool] = False
    """Whether `watched` may name columns behind the block that is being written."""
    is_final: ClassVar[bool] = True
    """Whether a written token stays, and the tokens to the left of all masks stay where they are."""

    @property
    def prepares(self) -> bool:
        """Whether rows wait at first until the policy has found their length."""
        return False

    def watched(self, state: State, real: Tensor) -> Tensor:
        """Columns that the model is asked about beside those that may be written, (B, L) bool.

        Args:
            state: before the step.
            real: (B, L) bool, true for everything but padding.
        """
        return torch.zeros_like(real)

    def adjusted(self, logits: Tensor, state: State, room: Tensor) -> Tensor:
        """The logits without what can't be obeyed now.

        Args:
            logits: (B, M, V) float32; not edited.
            state: the step; ``state.columns`` (B, M) are where the candidates stand.
            room: (B,) int64, by how many tokens each row may still grow.
        """
        return logits

    @abstractmethod
    def __call__(self, asked: Asked) -> Change:
        """What is to change after a step, in which `Asked.taken` is written."""


class Obeyable(Adjustment):
    """A policy's word on the logits of one step.

    Args:
        policy: that is asked.
        room: (B,) int64, by how many tokens each row may still grow.
    """

    def __init__(self, policy: LengthPolicy, room: Tensor) -> None:
        self.policy, self.room = policy, room

    @override
    def __call__(self, logits: Tensor, state: State) -> Tensor:
        return self.policy.adjusted(logits, state, self.room)
