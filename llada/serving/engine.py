"""One worker that runs the model: requests wait in a line, and those that are decoded alike share a batch.

A row's answer depends on its own tokens and seed only, so whoever shares the batch changes nothing but the time it
takes. Rows are aligned at their ends, where semi-autoregressive blocks are counted from, with padding in front.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from llada.samplers import Canvas, Sampler
from llada.text import TextModel
from llada.viewers import Frame, RowFrames

T = TypeVar("T")


class Busy(Exception):
    """The line is full."""


@dataclass(eq=False)
class Job:
    """A row to be written.

    Args:
        ids: token ids; what stands at open places doesn't matter.
        open: places to be written.
        sampler: how.
        seed: of the row.
        tell: called from the worker with a `Frame` after each step, None at the end, or the exception that ended it.
    """

    ids: Sequence[int]
    open: Sequence[bool]
    sampler: Sampler
    seed: int
    tell: Callable[[Frame | BaseException | None], None]
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the answer any more."""


class Engine:
    """The worker and its line.

    Args:
        text: model and tokenizer.
        batch_size: rows of a model call.
        queue_limit: jobs that may wait; more are refused.
        gather: seconds that a first request waits for others to share its batch.

    Raises:
        ValueError: if a number is out of its range.
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
        """End the worker after the batch at hand; those who still wait are told."""
        with self._changed:
            self._closed = True
            left, self._line = list(self._line), deque()
            self._changed.notify()
        for job in left:
            if isinstance(job, Job):
                job.tell(Busy("the server is closing"))
        self._worker.join(timeout=60.0)

    def _make_room(self, number: int) -> None:
        self._line = deque(job for job in self._line if not (isinstance(job, Job) and job.gone.is_set()))
        if self._closed or len(self._line) + number > self.queue_limit:
            raise Busy(f"{len(self._line)} requests wait already, of at most {self.queue_limit}; try again later")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                if self.gather and isinstance(self._line[0], Job):
                    self._changed.wait_for(lambda: self._closed or len(self._line) >= self.batch_size, self.gather)
                if not self._line:
                    continue
                batch = self._next()
            if callable(batch):
                batch()
            elif batch:
                self._decode(batch)

    def _next(self) -> "list[Job] | Callable[[], None]":
        """The first in the line, and those behind it that can share its batch; the others keep their order."""
        first = self._line.popleft()
        if not isinstance(first, Job):
            return first
        batch, rest = [first], deque[Job | Callable[[], None]]()
        for job in self._line:
            fits = isinstance(job, Job) and len(batch) < self.batch_size and job.sampler == first.sampler
            (batch if fits else rest).append(job)  # type: ignore[arg-type]
        self._line = rest
        return [job for job in batch if not job.gone.is_set()]

    def _decode(self, batch: list[Job]) -> None:
        try:
            self._steps(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].tell(error)
                return
            for job in batch:  # one that can't be decoded, or can't share a batch, is no one else's trouble
                self._decode([job])
        else:
            for job in batch:
                job.tell(None)

    def _steps(self, batch: list[Job]) -> None:
        made = aligned(batch, self.text)
        starts = [made.tokens.shape[1] - len(job.ids) for job in batch]
        seeds = self.text.seeds([job.seed for job in batch])
        films = [RowFrames(made.given, row, start) for row, start in enumerate(starts)]
        for step in self.text.model.iterate(*_plain(made), sampler=batch[0].sampler, seed=seeds):
            for film, job in zip(films, batch, strict=True):
                frame = film.after(step)
                if not job.gone.is_set():
                    job.tell(frame)
            if all(job.gone.is_set() for job in batch):
                return  # nobody waits for any row


def aligned(jobs: Sequence[Job], text: TextModel) -> Canvas:
    """The rows as a canvas on the model's device, padded in front.

    Args:
        jobs: the rows.
        text: knows the mask and the padding.
    """
    mask, pad = text.model.process.mask_token_id, text.tokenizer.pad_token_id
    pad = int(mask == 0) if pad is None else pad
    width = max(len(job.ids) for job in jobs)
    tokens = torch.full((len(jobs), width), pad, dtype=torch.int64)
    attention_mask, given = torch.zeros_like(tokens, dtype=torch.bool), torch.ones_like(tokens, dtype=torch.bool)
    for row, job in enumerate(jobs):
        start = width - len(job.ids)
        waits = torch.tensor(job.open)
        ids = torch.tensor(job.ids)
        tokens[row, start:] = ids if mask is None else ids.masked_fill(waits, mask)
        attention_mask[row, start:] = True
        given[row, start:] = ~waits
    device = text.model.device
    return Canvas(tokens.to(device), attention_mask.to(device), given.to(device))


def _plain(made: Canvas) -> tuple[Any, ...]:
    """No attention mask where nothing is padding, for backbones that know of none."""
    return made.tokens, None if bool(made.attention_mask.all()) else made.attention_mask, made.given
