"""Rows wait in a line, share batches without changing one another, and make room when nobody waits for them."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor
from typing_extensions import override

from llada.process import Process
from llada.samplers import Sampler, Step, low_confidence
from llada.serving import Busy, Engine, Job
from llada.text import TextModel
from llada.viewers import Frame


@dataclass(frozen=True)
class Held(Sampler):
    """Counts its batches and steps; goes on with the inner sampler step by step as it is let."""

    inner: Sampler
    rows: list[int]
    gate: threading.Event
    stepped: threading.Semaphore

    @override
    def iterate(
        self, model: Any, tokens: Tensor, process: Process, *, given: Tensor | None = None, seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:  # fmt: skip
        self.rows.append(len(tokens))
        for step in self.inner.iterate(model, tokens, process, given=given, seed=seed, **model_kwargs):
            self.stepped.release()
            assert self.gate.wait(20.0)
            yield step


def held() -> Held:
    return Held(low_confidence(8, block_length=8, temperature=1.0), [], threading.Event(), threading.Semaphore(0))


class Row:
    """A job, and what is told of it."""

    def __init__(self, sampler: Sampler, prompt: list[int], length: int = 8, seed: int = 0) -> None:
        self.told: queue.Queue[Frame | BaseException | None] = queue.Queue()
        ids, waits = [*prompt, *[0] * length], [*[False] * len(prompt), *[True] * length]
        self.job = Job(ids, waits, sampler, seed, self.told.put)

    def end(self) -> Frame:
        last = None
        while (frame := self.told.get(timeout=20.0)) is not None:
            assert isinstance(frame, Frame), frame
            last = frame
        assert last is not None
        return last


@pytest.fixture
def engine(text: TextModel) -> Iterator[Engine]:
    made = Engine(text, batch_size=4, queue_limit=6)
    yield made
    made.close()


def test_rows_of_a_batch_are_those_of_each_alone(engine: Engine, text: TextModel) -> None:
    sampler = held()
    sampler.gate.set()
    prompts = [[7], [8, 9, 10, 11, 12], [], [20, 21]]
    rows = [Row(sampler, prompt, 4 + 3 * i, seed=i) for i, prompt in enumerate(prompts)]
    engine.submit([row.job for row in rows])
    together = [row.end() for row in rows]
    assert sampler.rows == [4], "they shared one batch"
    for i, prompt in enumerate(prompts):
        alone = Row(sampler, prompt, 4 + 3 * i, seed=i)
        engine.submit([alone.job])
        found = alone.end()
        assert found.ids == together[i].ids
        assert found.calls == together[i].calls
        assert found.ids[: len(prompt)] == prompt
        assert None not in found.ids


def test_other_decoders_wait_for_a_batch_of_their_own_and_keep_their_order(engine: Engine) -> None:
    first, second = held(), held()
    first.gate.set(), second.gate.set()
    rows = [Row(sampler, [5]) for sampler in (first, second, first, second)]
    engine.submit([row.job for row in rows])
    for row in rows:
        row.end()
    assert first.rows == [2]
    assert second.rows == [2]


def test_a_full_line_refuses_all_of_a_request(engine: Engine) -> None:
    sampler = held()
    busy = Row(sampler, [5])
    engine.submit([busy.job])
    assert sampler.stepped.acquire(timeout=20.0)  # it has left the line
    waiting = [Row(held(), [5]) for _ in range(5)]
    engine.submit([row.job for row in waiting])
    with pytest.raises(Busy, match="5 requests wait already, of at most 6"):
        engine.submit([Row(sampler, [5]).job, Row(sampler, [6]).job])
    for row in waiting:
        row.job.gone.set()  # their clients have left
    last = Row(sampler, [6])
    engine.submit([last.job])
    sampler.gate.set()
    busy.end(), last.end()


def test_a_batch_that_nobody_waits_for_is_given_up(engine: Engine) -> None:
    sampler = held()
    rows = [Row(sampler, [5]), Row(sampler, [6])]
    engine.submit([row.job for row in rows])
    assert sampler.stepped.acquire(timeout=20.0)
    for row in rows:
        row.job.gone.set()
    sampler.gate.set()
    engine.call(lambda: None).result(timeout=20.0)
    assert not sampler.stepped.acquire(blocking=False), "no further step"


def test_one_bad_row_is_no_one_elses_trouble(engine: Engine, text: TextModel) -> None:
    sampler = replace(held(), inner=Picky(low_confidence(8, block_length=8)))
    sampler.gate.set()
    good, bad = Row(sampler, [5]), Row(sampler, [99])
    engine.submit([good.job, bad.job])
    assert None not in good.end().ids
    told = bad.told.get(timeout=20.0)
    assert isinstance(told, ValueError)
    assert "99" in str(told)


@dataclass(frozen=True)
class Picky(Sampler):
    """Refuses a token."""

    inner: Sampler

    @override
    def iterate(
        self, model: Any, tokens: Tensor, process: Process, *, given: Tensor | None = None, seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:  # fmt: skip
        if bool((tokens == 99).any()):
            raise ValueError("token 99 can't be read")
        yield from self.inner.iterate(model, tokens, process, given=given, seed=seed, **model_kwargs)


def test_closing_tells_those_who_wait(text: TextModel) -> None:
    engine, sampler = Engine(text), held()
    busy, waiting = Row(sampler, [5]), Row(held(), [5])
    engine.submit([busy.job])
    assert sampler.stepped.acquire(timeout=20.0)
    engine.submit([waiting.job])
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert isinstance(waiting.told.get(timeout=20.0), Busy)
    sampler.gate.set()
    closing.join(timeout=20.0)
    assert None not in busy.end().ids, "the batch at hand is finished"
    with pytest.raises(Busy):
        engine.submit([Row(sampler, [5]).job])


def test_numbers_out_of_range_are_refused(text: TextModel) -> None:
    for arguments in ({"batch_size": 0}, {"queue_limit": 0}, {"gather": -1.0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            Engine(text, **arguments)  # type: ignore[arg-type]
