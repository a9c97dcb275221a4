"""One worker that runs the model: requests wait in a line, and rows join and leave between model calls.

A round answers what every row at work asks of the model, as few batches as can be, and moves each on to its next call.
So a row is written in as many rounds as it has calls, whoever else is there and for how long. Its answer depends on its
own tokens and seed only: whoever shares a call changes nothing but the time it takes.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from llada.denoiser import as_denoiser
from llada.inference import evaluating
from llada.serving.at_work import Group, Job, Left, Row, groups_of, rows_of
from llada.serving.calls import answers, steady
from llada.text import TextModel

T = TypeVar("T")


class Busy(Exception):
    """The line is full."""


class Engine:
    """The worker and its line.

    Args:
        text: model and tokenizer.
        batch_size: rows that are written at a time, and so the most that share a model call.
        queue_limit: jobs that may wait; more are refused.
        gather: seconds that a first request waits for others to begin with it while nothing is written.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from queue import SimpleQueue
        >>> from tempfile import TemporaryDirectory
        >>> from llada import DiffusionLM
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.data import SentencePieceTraining
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import low_confidence
        >>> from llada.serving import Engine, Job
        >>> from llada.text import TextModel
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> model = DiffusionLM(BidirectionalTransformer(280, 8, 1, 2), MaskingProcess(words.mask_token_id)).eval()
        >>> engine, told = Engine(TextModel(model, words), batch_size=4), SimpleQueue()
        >>> engine.submit([Job([5, 0, 0], [False, True, True], low_confidence(steps=2), seed=0, tell=told.put)])
        >>> told.get().calls, told.get().calls, told.get()  # two steps, and the end
        (1, 2, None)
        >>> engine.close()
    """

    def __init__(self, text: TextModel, batch_size: int = 8, queue_limit: int = 64, gather: float = 0.01) -> None:
        if batch_size < 1 or queue_limit < 1 or gather < 0.0:
            raise ValueError(
                "batch_size and queue_limit must be 1 or more, and gather 0 seconds or more; "
                f"got {batch_size}, {queue_limit}, {gather}"
            )
        self.text, self.batch_size, self.queue_limit, self.gather = text, batch_size, queue_limit, gather
        self._line: deque[Job | Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._rows: list[Row] = []
        self._groups: list[Group] = []
        self._denoiser = steady(as_denoiser(text.model.backbone))
        self._worker = threading.Thread(target=self._work, name="llada-engine", daemon=True)
        self._worker.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put rows in the line, all of them or none.

        Raises:
            Busy: if they don't fit.
        """
        with self._changed:
            self._make_room(len(jobs))
            self._line.extend(jobs)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Let the worker call a function that needs the model; it takes a place in the line.

        Raises:
            Busy: if there is none.
        """
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        with self._changed:
            self._make_room(1)
            self._line.append(run)
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the worker when the rows at work are written; those who still wait are told."""
        with self._changed:
            self._closed = True
            left, self._line = list(self._line), deque()
            self._changed.notify()
        for job in left:
            if isinstance(job, Job):
                job.tell(Busy("the server is closing"))
        self._worker.join(timeout=60.0)

    def _make_room(self, number: int) -> None:
        self._line = deque(job for job in self._line if not _is_gone(job))
        if self._closed or len(self._line) + number > self.queue_limit:
            raise Busy(f"{len(self._line)} requests wait already, of at most {self.queue_limit}; try again later")

    @torch.no_grad()
    def _work(self) -> None:
        with evaluating(self.text.model):
            while self._wait():
                functions, jobs = self._take()
                for function in functions:
                    function()
                self._settle([*self._rows, *rows_of(jobs, self.text)])
                self._round()

    def _wait(self) -> bool:
        """Wait until there is something to do; false if there will be no more."""
        if self._rows or self._groups:
            return True
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closed)
            if self.gather and self._line and isinstance(self._line[0], Job):
                self._changed.wait_for(lambda: self._closed or len(self._line) >= self.batch_size, self.gather)
            return not self._closed

    def _take(self) -> tuple[list[Callable[[], None]], list[Job]]:
        """The first functions and jobs in the line, as many as there is room for; the others keep their order.

        No function waits for a job that waits for room, and one is called between two rounds at most.
        """
        at_work = (len(jobs) for jobs in (*(row.jobs for row in self._rows), *(group.jobs for group in self._groups)))
        free = self.batch_size - sum(at_work)
        functions: list[Callable[[], None]] = []
        jobs: list[Job] = []
        rest: deque[Job | Callable[[], None]] = deque()
        with self._changed:
            for each in self._line:
                if isinstance(each, Job) and len(jobs) < free:
                    jobs.append(each)
                elif not isinstance(each, Job) and not functions:
                    functions.append(each)
                elif not _is_gone(each):
                    rest.append(each)
            self._line = rest
        return functions, [job for job in jobs if not job.gone.is_set()]

    def _settle(self, rows: list[Row]) -> None:
        """Keep the rows that go on; what can't share a loop begins alone, and what can't share calls as groups."""
        alone = [Row([job], self.text) for row in rows if row.parts for job in row.jobs]
        self._rows = [row for row in [*rows, *alone] if row.call is not None]
        self._groups += groups_of([*rows, *alone], self.text)

    def _round(self) -> None:
        """Move every row on by a call, every group by a step, and let go those that nobody waits for."""
        for row in self._rows:
            if row.is_gone:
                row.go_on(Left())
        rows = [row for row in self._rows if row.call is not None]
        calls = [row.call for row in rows if row.call is not None]
        for row, answer in zip(rows, answers(calls, self._denoiser), strict=True):
            row.go_on(answer)
        self._settle(rows)
        self._groups = [left for group in self._groups for left in group.step()]


def _is_gone(job: Job | Callable[[], None]) -> bool:
    return isinstance(job, Job) and job.gone.is_set()
