"""Signals that ask a run to end, noted until it is at a place where it can be saved."""

import signal
import threading
from types import FrameType
from typing import Any

from typing_extensions import override

WATCHED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
"""A scheduler that takes the machine back, Ctrl-C, a terminal that was closed, a scheduler's early warning."""


class Interrupted(SystemExit):
    """A run has ended because of a signal; the exit status is 128 plus its number, as shells expect.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    @override
    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Interrupts:
    """Notes the first signal; a second one of its kind ends the run at once.

    Attributes:
        received: number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Begin; does nothing outside of the main thread, where Python allows no handlers.

        Signals that are ignored, as under ``nohup``, stay so, and a handler that somebody else has set for SIGUSR1 or
        SIGHUP stays, such as Lightning's for Slurm.
        """
        self.received = 0
        if threading.current_thread() is not threading.main_thread():
            return
        for name in WATCHED:
            number = getattr(signal, name, None)
            current = None if number is None else signal.getsignal(number)
            always = name in ("SIGTERM", "SIGINT") and current is not signal.SIG_IGN
            if number is not None and (always or current is signal.SIG_DFL):
                self._before[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        """Give the signals back to who had them."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == number:
            raise Interrupted(number)
        self.received = number
