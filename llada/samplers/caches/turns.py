"""How many calls each input has needed since a window was opened, which is what refreshes are counted in.

Rows that take tokens in every step until they are finished count alike, by the number of calls alone. A row that passes
over a step which its neighbours need has a count of its own.

Shapes: B rows, R inputs of a model call: B, or twice as many under guidance.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Turns:
    """How many calls each input of one canvas has needed in its window.

    Args:
        inputs: R.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.begin_window()

    def begin_window(self) -> None:
        """Set the counts of all inputs to 0."""
        self.calls = 0
        self.own: Tensor | None = None  # (R,) int64 on the CPU, where counts may differ
        self.asking: Tensor | None = None  # (R,) bool on the CPU, where some pass over the next call

    def restart(self, begun: Sequence[bool]) -> None:
        """Set the counts of some inputs to 0.

        Args:
            begun: which ones, R answers.
        """
        if self.own is None:
            self.own = torch.full((self.inputs,), self.calls)
            self.asking = torch.ones(self.inputs, dtype=torch.bool)
        self.own = self.own.masked_fill(torch.tensor(begun), 0)

    def begin_call(self, asking: Tensor) -> None:
        """Some rows, (B,) bool, need the next call; the others don't count it."""
        if self.own is None:
            self.own = torch.full((self.inputs,), self.calls)
        self.asking = asking.cpu().repeat(self.inputs // len(asking))

    def due(self, rule: Callable[[int], bool]) -> bool | Tensor:
        """What a rule says of the next call, as one answer if it is the same for all inputs.

        Args:
            rule: from the number of calls before this one to the answer.

        Returns:
            A bool, or (R,) bool on the CPU. Inputs that don't ask have the answer of the call that they will ask for.
        """
        if self.own is None:
            return rule(self.calls)
        answers = torch.tensor([rule(count) for count in self.own.tolist()])
        return bool(answers[0]) if bool((answers == answers[0]).all()) else answers

    def end_call(self) -> None:
        """The call has been made."""
        self.calls += 1
        if self.own is not None:
            assert self.asking is not None
            self.own = self.own + self.asking
