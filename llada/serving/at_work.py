"""Rows that are being written, which the engine moves on one model call at a time.

A sampler is a loop that calls its model from deep inside. To stop it there, each row's loop runs in a thread of its
own, and only one thread of all runs at any time: a loop runs until it asks the model, then hands over to the engine,
which answers the calls of many at once. So nothing that samplers share need be safe between threads. The choices of one
request come and leave together: where they have one shape, one loop writes them all.

A sampler that looks into the network, since it keeps a cache of keys and values, can't share its calls. Rows of one
such sampler that begin together form a group that is written as a whole, step by step between the others' calls.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NoReturn

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import BackboneDenoiser, Denoiser, as_denoiser
from llada.samplers import Canvas, Sampler
from llada.serving.calls import Call, alike
from llada.text import TextModel
from llada.viewers import Frame, RowFrames


@dataclass(eq=False)
class Job:
    """A row to be written.

    Args:
        ids: token ids; what stands at open places doesn't matter.
        open: places to be written.
        sampler: how.
        seed: of the row.
        tell: called from a thread of the engine with a `Frame` after each step, None at the end, or the exception that
            ended it.

    Examples:
        >>> from llada.samplers import low_confidence
        >>> from llada.serving import Job
        >>> told = []
        >>> job = Job(ids=[5, 0, 0], open=[False, True, True], sampler=low_confidence(), seed=0, tell=told.append)
        >>> job.gone.set()  # nobody waits any more: an engine lets the row go before its next model call
        >>> job.gone.is_set()
        True
    """

    ids: Sequence[int]
    open: Sequence[bool]
    sampler: Sampler
    seed: int
    tell: Callable[[Frame | BaseException | None], None]
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the answer any more; the jobs of one request share it."""


class Left(BaseException):
    """Nobody waits for the row; raised where its sampler asks the model."""


class LooksInside(BaseException):
    """The sampler wants more of the model than logits."""


class Row:
    """A row whose model calls can be shared, or several of one request that one loop writes.

    Attributes:
        call: what it asks the model; None once it has ended.
        looks_inside: whether it ended because its sampler wants more than logits; nobody has been told of that.
        parts: whether it ended because several couldn't be written at once; nobody has been told of that.

    Args:
        jobs: the rows.
        text: model and tokenizer.
    """

    def __init__(self, jobs: Sequence[Job], text: TextModel) -> None:
        self.jobs, self.text, self.looks_inside, self.parts = list(jobs), text, False, False
        self._asked, self._answered = SimpleQueue[Call | None](), SimpleQueue[Tensor | BaseException]()
        threading.Thread(target=self._write, name="llada-row", daemon=True).start()
        self.call = self._asked.get()

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(job.gone.is_set() for job in self.jobs)

    def go_on(self, answer: Tensor | BaseException) -> None:
        """Let it run to its next call.

        Args:
            answer: the logits that it asked for, or what is raised in their place.
        """
        self._answered.put(answer)
        self.call = self._asked.get()

    def ask(self, call: Call) -> Tensor:
        """Called by the row's own loop: hand over to the engine until the answer is there."""
        self._asked.put(call)
        answer = self._answered.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _write(self) -> None:
        try:
            with torch.no_grad():
                for frames in _frames(self.jobs, self.text, Asking(self, as_denoiser(self.text.model.backbone))):
                    _tell(self.jobs, frames)
            _tell(self.jobs, None)
        except Left:
            pass
        except LooksInside:
            self.looks_inside = True
        except BaseException as error:
            if len(self.jobs) > 1:  # what can't share a batch may be written alone
                self.parts = True
            else:
                self.jobs[0].tell(error)
        finally:
            self._asked.put(None)


def rows_of(jobs: Sequence[Job], text: TextModel) -> list[Row]:
    """The jobs as rows: those of one request, one sampler and one shape in one loop.

    Args:
        jobs: that begin together.
        text: model and tokenizer.
    """
    together = alike(jobs, lambda job: (id(job.gone), job.sampler, list(job.open)))
    return [Row(each, text) for each in together]


class Asking(BackboneDenoiser):
    """The model as a row's sampler sees it: it gives logits, when the engine has them, and nothing else.

    Args:
        row: who asks.
        denoiser: the model.
    """

    def __init__(self, row: Row, denoiser: Denoiser) -> None:
        self._row, self._denoiser = row, denoiser
        self.max_length = getattr(row.text.model.backbone, "max_length", None)

    @property
    @override
    def block_length(self) -> int | None:
        return self._denoiser.block_length

    @override
    def takes(self, name: str) -> bool:
        return self._denoiser.takes(name)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        return self._row.ask(Call(tokens, where, model_kwargs))

    def __call__(self, *arguments: Any, **model_kwargs: Any) -> NoReturn:
        """The network itself, which it doesn't give."""
        raise LooksInside

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise LooksInside


class Group:
    """Rows of one sampler that are written by it together, with the network itself.

    Args:
        jobs: the rows.
        text: model and tokenizer.
    """

    def __init__(self, jobs: Sequence[Job], text: TextModel) -> None:
        self.jobs, self.text = list(jobs), text
        self._steps = _frames(self.jobs, text, text.model.backbone)

    def step(self) -> list["Group"]:
        """Write one step.

        Returns:
            What is left to be done: itself, nothing, or groups of one if something is wrong with one of its rows.
        """
        if all(job.gone.is_set() for job in self.jobs):
            return []
        try:
            frames = next(self._steps, None)
        except Exception as error:
            if len(self.jobs) > 1:  # one that can't be decoded, or can't share a batch, is no one else's trouble
                return [Group([job], self.text) for job in self.jobs]
            self.jobs[0].tell(error)
            return []
        _tell(self.jobs, frames)
        return [] if frames is None else [self]


def groups_of(rows: Sequence[Row], text: TextModel) -> list[Group]:
    """Groups of the rows whose samplers look inside, one for each sampler."""
    jobs = [job for row in rows if row.looks_inside for job in row.jobs]
    return [Group(together, text) for together in alike(jobs, lambda job: job.sampler)]


def _tell(jobs: Sequence[Job], frames: Sequence[Frame] | None) -> None:
    """Tell those who wait of a step, or of the end."""
    for index, job in enumerate(jobs):
        if not job.gone.is_set():
            job.tell(None if frames is None else frames[index])


def _frames(jobs: Sequence[Job], text: TextModel, model: Any) -> Iterator[list[Frame]]:
    """The frames of the rows after each step."""
    made = aligned(jobs, text)
    starts = [made.tokens.shape[1] - len(job.ids) for job in jobs]
    films = [RowFrames(made.given, row, start) for row, start in enumerate(starts)]
    # No attention mask where nothing is padding, for backbones that know of none.
    kwargs = {} if bool(made.attention_mask.all()) else {"attention_mask": made.attention_mask}
    seeds = text.seeds([job.seed for job in jobs])
    process = text.model.process
    for step in jobs[0].sampler.iterate(model, made.tokens, process, given=made.given, seed=seeds, **kwargs):
        yield [film.after(step) for film in films]


def aligned(jobs: Sequence[Job], text: TextModel) -> Canvas:
    """The rows as a canvas on the model's device, padded in front.

    Semi-autoregressive blocks are counted from the end of a row, so it is there that rows meet.

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
