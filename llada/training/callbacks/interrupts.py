"""Signals that ask a run to end, noted until it is at a place where it can be saved."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
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

    Lightning's handler for Slurm saves a checkpoint where the signal finds the run, which may be in the middle of an
    optimiser step, and on each rank at another place, where the ranks wait for one another without end. So the signal
    is noted, and the handler is called by `put_off` when all ranks have reached a place where they can be saved. The
    run goes on behind it until Slurm ends it.

    Attributes:
        received: number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        self._requeue = 0

    @property
    def ends(self) -> bool:
        """Whether a signal asks the run to end; the one that puts a job back into Slurm's queue doesn't."""
        return self.received not in (0, self._requeue)

    def watch(self, environment: Any = None) -> None:
        """Begin; does nothing outside of the main thread, where Python allows no handlers.

        Signals that are ignored, as under ``nohup``, stay so, and a handler that somebody else has set for SIGUSR1 or
        SIGHUP stays.

        Args:
            environment: the cluster's, as the Trainer knows it; None: there is none.
        """
        self.received = self._requeue = 0
        if threading.current_thread() is not threading.main_thread():
            return
        for name in WATCHED:
            number = getattr(signal, name, None)
            current = None if number is None else signal.getsignal(number)
            always = name in ("SIGTERM", "SIGINT") and current is not signal.SIG_IGN
            if number is not None and (always or current is signal.SIG_DFL):
                self._before[number] = signal.signal(number, self._note)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            number = int(environment.requeue_signal)
            if number not in self._before and callable(signal.getsignal(number)):
                self._before[number], self._requeue = signal.signal(number, self._note), number

    def put_off(self, number: int) -> bool:
        """Call the handler that puts the job back into Slurm's queue, if that is what the signal asks for.

        Args:
            number: of a signal that one of the ranks has received.

        Returns:
            Whether it was, so that the run goes on.
        """
        if number != self._requeue or not number:
            return False
        self.received = 0
        self._before[number](number, None)
        return True

    def stop(self) -> None:
        """Give the signals back to who had them."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == number != self._requeue:
            raise Interrupted(number)
        self.received = number
