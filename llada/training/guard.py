"""Stops a training whose loss is no longer a number."""

import torch
from torch import Tensor


class FiniteGuard:
    """Raises when a loss isn't finite.

    On an accelerator a loss is read a step later, when it is there anyway, so that nothing waits for it.
    """

    def __init__(self) -> None:
        self._unread: tuple[Tensor, int] | None = None

    def watch(self, loss: Tensor, step: int) -> None:
        """Note a loss, and read it at once on the CPU."""
        self.check()
        self._unread = loss.detach(), step
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Read the last loss.

        Raises:
            ValueError: if it isn't finite.
        """
        unread, self._unread = self._unread, None
        if unread is not None and not bool(torch.isfinite(unread[0])):
            raise ValueError(
                f"the training loss became {unread[0].item()} at step {unread[1]}; nothing was saved after it. Resume "
                "from the last checkpoint with a lower learning rate, more warm-up or gradient_clip_val=1.0"
            )
