"""Rows wait in a line, join and leave between model calls without changing one another, and make room when unwanted."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import pytest
from torch import Tensor
from typing_extensions import override

from llada.heads.prepacked import PrepackedHead
from llada.process import Process
from llada.samplers import DualCache, Sampler, Step, UnmaskingSampler, low_confidence, spread
from llada.serving import Busy, Engine, Job
from llada.text import TextModel
from llada.viewers import Frame

PLAIN = low_confidence(block_length=8, temperature=1.0)  # a call for each token
CACHED = replace(PLAIN, cache=DualCache())


class Row:
    """A job, and what is told of it; `at` is called in the engine's thread with the number of each step."""

    def __init__(
        self, sampler: Sampler, prompt: list[int], length: int = 8, seed: int = 0,
        at: Callable[[int], object] = lambda step: None,
    ) -> None:  # fmt: skip
        self.told: queue.Queue[Frame | BaseException | None] = queue.Queue()
        self.steps, self.at = 0, at
        ids, waits = [*prompt, *[0] * length], [*[False] * len(prompt), *[True] * length]
        self.job = Job(ids, waits, sampler, seed, self.tell)

    def tell(self, what: Frame | BaseException | None) -> None:
        self.told.put(what)
        if isinstance(what, Frame):
            self.steps += 1
            self.at(self.steps)

    def end(self) -> Frame:
        last = None
        while (frame := self.told.get(timeout=60.0)) is not None:
            assert isinstance(frame, Frame), frame
            last = frame
        assert last is not None
        return last


class Gate:
    """Holds the engine at the first step of a row until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, step: int) -> None:
        self.reached.set()
        assert self.opened.wait(60.0)


@pytest.fixture
def engine(text: TextModel) -> Iterator[Engine]:
    made = Engine(text, batch_size=4, queue_limit=6)
    yield made
    made.close()


@pytest.fixture
def rows_of_calls(text: TextModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the network had."""
    seen: list[int] = []
    hidden = text.model.backbone.hidden  # type: ignore[attr-defined]

    @wraps(hidden)
    def counted(tokens: Tensor, **kwargs: Any) -> Any:
        seen.append(len(tokens))
        return hidden(tokens, **kwargs)

    monkeypatch.setattr(text.model.backbone, "hidden", counted)
    return seen


def test_the_head_is_prepared_once_for_all_rounds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first call, so that none is rounded in another way than the others."""
    used, applied = [], PrepackedHead.__call__

    def watched(self: PrepackedHead, *arguments: Any) -> Tensor:
        used.append(self)
        return applied(self, *arguments)

    monkeypatch.setattr(PrepackedHead, "__call__", watched)
    for seed in range(2):
        row = Row(PLAIN, [7], 4, seed)
        engine.submit([row.job])
        row.end()
    assert len(used) == 8
    assert {(id(head), head.calls_that_pay) for head in used} == {(id(used[0]), 1)}


@pytest.mark.parametrize("samplers", [(PLAIN, spread(4, temperature=0.7)), (CACHED, CACHED)], ids=["asking", "inside"])
def test_rows_that_share_calls_are_those_of_each_alone(
    engine: Engine, rows_of_calls: list[int], samplers: tuple[Sampler, ...]
) -> None:
    asked = [(samplers[i % 2], prompt, 9 + 2 * i, i) for i, prompt in enumerate([[7], [8, 9, 10, 11], [], [20, 21]])]
    rows = [Row(*each) for each in asked]
    engine.submit([row.job for row in rows])
    together = [row.end() for row in rows]
    assert rows_of_calls[0] == 4
    shared = len(rows_of_calls)
    for row, (sampler, prompt, length, seed) in zip(together, asked, strict=True):
        alone = Row(sampler, prompt, length, seed)
        engine.submit([alone.job])
        found = alone.end()
        assert found.ids == row.ids
        assert found.calls == row.calls
        assert found.ids[: len(prompt)] == prompt
        assert None not in found.ids
    assert len(rows_of_calls) - shared >= 2 * shared


@pytest.mark.parametrize("long", [PLAIN, CACHED], ids=["asking", "inside"])
@pytest.mark.parametrize("short", [PLAIN, CACHED], ids=["asking", "inside"])
def test_a_short_row_that_comes_later_ends_before_a_long_one(
    engine: Engine, text: TextModel, long: Sampler, short: Sampler
) -> None:
    ends: list[str] = []
    gate = Gate()
    first = Row(long, [5], 20, seed=1, at=gate)
    second = Row(short, [6, 7], 3, seed=2)
    for name, row in (("long", first), ("short", second)):
        tell = row.job.tell
        row.job.tell = lambda what, name=name, tell=tell: (ends.append(name) if what is None else None, tell(what))
    engine.submit([first.job])
    assert gate.reached.wait(60.0)
    engine.submit([second.job])
    gate.opened.set()
    for row in (first, second):
        alone = Row(row.job.sampler, [], seed=row.job.seed)
        alone.job.ids, alone.job.open = row.job.ids, row.job.open
        found = row.end()
        engine.submit([alone.job])
        assert alone.end().ids == found.ids
    assert ends == ["short", "long"]


@pytest.mark.parametrize("sampler", [PLAIN, CACHED], ids=["asking", "inside"])
def test_a_row_that_nobody_waits_for_makes_room_at_the_next_call(text: TextModel, sampler: Sampler) -> None:
    engine = Engine(text, batch_size=1)
    leaving = Row(sampler, [5], 24, at=lambda step: leaving.job.gone.set() if step == 3 else None)
    waiting = Row(sampler, [6])
    engine.submit([leaving.job, waiting.job])
    assert None not in waiting.end().ids
    assert leaving.steps == 3
    assert leaving.told.qsize() == 3, "and nothing after these"
    engine.close()


def test_rows_look_inside_together_even_if_only_late(engine: Engine, rows_of_calls: list[int]) -> None:
    late = [Row(Late(PLAIN), [5 + i], seed=i) for i in range(2)]
    engine.submit([row.job for row in late])
    plain = [Row(PLAIN, [5 + i], seed=i) for i in range(2)]
    ids = [row.end().ids for row in late]
    assert rows_of_calls == [2] * (8 + 1)
    engine.submit([row.job for row in plain])
    assert [row.end().ids for row in plain] == ids


def test_a_full_line_refuses_all_of_a_request(engine: Engine) -> None:
    gate = Gate()
    busy = Row(PLAIN, [5], at=gate)
    engine.submit([busy.job])
    assert gate.reached.wait(60.0)  # it has left the line
    waiting = [Row(PLAIN, [5]) for _ in range(5)]
    engine.submit([row.job for row in waiting])
    with pytest.raises(Busy, match="5 requests wait already, of at most 6"):
        engine.submit([Row(PLAIN, [5]).job, Row(PLAIN, [6]).job])
    for row in waiting:
        row.job.gone.set()  # their clients have left
    last = Row(PLAIN, [6])
    engine.submit([last.job])
    gate.opened.set()
    busy.end(), last.end()
    assert not any(row.steps for row in waiting)


def test_more_rows_than_fit_wait_in_their_order_and_functions_pass_them(text: TextModel) -> None:
    engine, gate, order = Engine(text, batch_size=2), Gate(), list[int | str]()
    held = Row(PLAIN, [5], 24, at=gate)
    rows = [Row(PLAIN, [6], at=lambda step, i=i: order.append(i) if step == 1 else None) for i in range(3)]  # type: ignore[misc]
    engine.submit([held.job])
    assert gate.reached.wait(60.0)
    engine.submit([row.job for row in rows])
    called = engine.call(lambda: order.append("function"))
    gate.opened.set()
    for row in (*rows, held):
        row.end()
    called.result(timeout=60.0)
    assert order == ["function", 0, 1, 2]
    engine.close()


@pytest.mark.parametrize("sampler", [PLAIN, CACHED], ids=["asking", "inside"])
def test_one_bad_row_is_no_one_elses_trouble(engine: Engine, text: TextModel, sampler: Sampler) -> None:
    vocabulary = text.tokenizer.vocab_size
    good, bad = Row(sampler, [5], seed=3), Row(sampler, [vocabulary + 9])
    engine.submit([good.job, bad.job])
    told = bad.told.get(timeout=60.0)
    assert isinstance(told, ValueError)
    assert "outside of the vocabulary" in str(told)
    alone = Row(sampler, [5], seed=3)
    engine.submit([alone.job])
    assert good.end().ids == alone.end().ids


def test_one_loop_writes_the_choices_of_a_request(
    engine: Engine, text: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[int] = []
    iterate = UnmaskingSampler.iterate

    def counted(self: Any, model: Any, tokens: Tensor, *arguments: Any, **options: Any) -> Iterator[Step]:
        loops.append(len(tokens))
        return iterate(self, model, tokens, *arguments, **options)

    monkeypatch.setattr(UnmaskingSampler, "iterate", counted)
    asked = [([5, 6], 8), ([7, 8], 8), ([9], 9)]  # the last one is of another shape
    choices, other = [Row(PLAIN, *each, seed=seed) for seed, each in enumerate(asked)], Row(PLAIN, [5, 6], 8)
    for row in choices:
        row.job.gone = choices[0].job.gone
    engine.submit([row.job for row in (*choices, other)])
    together = [row.end() for row in choices]
    other.end()
    assert sorted(loops) == [1, 1, 2]
    for seed, (found, each) in enumerate(zip(together, asked, strict=True)):
        alone = Row(PLAIN, *each, seed=seed)
        engine.submit([alone.job])
        assert alone.end() == found

    good, bad = Row(PLAIN, [5, 6], seed=0), Row(PLAIN, [5, text.tokenizer.vocab_size])
    bad.job.gone = good.job.gone
    engine.submit([bad.job, good.job])
    assert isinstance(bad.told.get(timeout=60.0), ValueError)
    assert good.end() == together[0]


@dataclass(frozen=True)
class Late(Sampler):
    """Looks into the network after the first step."""

    inner: UnmaskingSampler

    @override
    def iterate(
        self, model: Any, tokens: Tensor, process: Process, *, given: Tensor | None = None, seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:  # fmt: skip
        for step in self.inner.iterate(model, tokens, process, given=given, seed=seed, **model_kwargs):
            yield step
            assert model.head is not None


def test_closing_tells_those_who_wait(text: TextModel) -> None:
    engine, gate = Engine(text, batch_size=1), Gate()
    busy, waiting = Row(PLAIN, [5], at=gate), Row(PLAIN, [5])
    engine.submit([busy.job])
    assert gate.reached.wait(60.0)
    engine.submit([waiting.job])
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert isinstance(waiting.told.get(timeout=60.0), Busy)
    gate.opened.set()
    closing.join(timeout=60.0)
    assert None not in busy.end().ids, "the row at work is finished"
    with pytest.raises(Busy):
        engine.submit([Row(PLAIN, [5]).job])


def test_numbers_out_of_range_are_refused(text: TextModel) -> None:
    for arguments in ({"batch_size": 0}, {"queue_limit": 0}, {"gather": -1.0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            Engine(text, **arguments)  # type: ignore[arg-type]
