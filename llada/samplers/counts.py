"""What is known beforehand of the counts of a window's steps, so that the loop needn't wait for the device.

Rows may have different numbers of masks and of steps; a window takes as many steps as its longest row.
"""

from collections.abc import Sequence

from llada.samplers.amount.amount import Amount
from llada.samplers.layout import Span


class Counts:
    """The counts of one window.

    Args:
        amount: how many positions a step writes.
        span: the window.
        initial: open positions of each row.
        known: whether nothing but the amount decides them.
    """

    def __init__(self, amount: Amount, span: Span, initial: Sequence[int], known: bool) -> None:
        self.amount, fullest = amount, max(initial)
        shares = [fullest] * len(initial) if span.shares is None else span.shares
        self.rows = {(n, steps) for n, steps in zip(initial, shares, strict=True) if n}
        self.num_steps = max((steps for _, steps in self.rows), default=0)
        self.known = known and amount.masks_left(1, 0, 1) is not None

    def left(self, step: int) -> int | None:
        """Open positions before a step in the row that has the most of them, or None."""
        return max((self._left(n, steps, step) for n, steps in self.rows), default=0) if self.known else None

    def most(self, step: int) -> int | None:
        """The most that a step takes in a row, or None."""
        if not self.known:
            return None
        return max(self._left(n, steps, step) - self._left(n, steps, step + 1) for n, steps in self.rows)

    def _left(self, initial: int, num_steps: int, step: int) -> int:
        left = self.amount.masks_left(initial, min(step, num_steps), num_steps)
        assert left is not None
        return left
