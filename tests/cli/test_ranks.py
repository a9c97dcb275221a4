"""Commands that several processes share: the answers of one process, in the order of the questions, written once."""

import contextlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llada.cli import main
from llada.text import Ranks, launched
from tests.cli.trainer_file import write_trainer_file
from tests.evaluation.conftest import tasks as tasks
from tests.ranks import meeting_point
from tests.tiny_checkpoint import write_checkpoint

FORK = multiprocessing.get_context("fork")  # torch is there already


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is a thread of this process."""

    said: tuple[object, ...] | list = ()
    meet: threading.Barrier | None = None

    def _gather(self, mine):
        self.said[self.rank] = mine
        self.meet.wait(10)
        found = list(self.said)
        self.meet.wait(10)
        return found


def in_threads(size: int, work: Callable[[Ranks], object]) -> list[object]:
    said, meet, found = [None] * size, threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(Thread(rank, size, said, meet))
        except ValueError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
def test_results_come_in_order_and_each_is_computed_once(size: int, number: int) -> None:
    computed: list[int] = []

    def work(ranks: Ranks) -> list[int]:
        return list(ranks.share(range(number), lambda item: computed.append(item) or 10 * item))

    assert in_threads(size, work) == [[10 * item for item in range(number)]] * size
    assert sorted(computed) == list(range(number))


def test_an_error_of_one_process_is_everybodys() -> None:
    def check(item: int) -> int:
        if item == 4:
            raise ValueError("item 4 is bad")
        return item

    assert in_threads(2, lambda ranks: list(ranks.share(range(6), check))) == ["item 4 is bad"] * 2
    assert in_threads(2, lambda ranks: ranks.once(lambda: ranks.rank)) == [0, 0]


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == Ranks(0, 1)


def run_rank(rank: int, where: dict[str, str], folder: Path, commands: list[list[str]]) -> None:
    """A process as torchrun starts it."""
    os.environ |= {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with (folder / f"said-{rank}").open("w") as said, contextlib.redirect_stdout(said):
        worst = max(main(command) for command in commands)
    os._exit(worst)


def test_two_processes_write_what_one_does(tmp_path: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    folder = write_checkpoint(tmp_path / "checkpoint")
    model = str(write_trainer_file(folder, folder / "model.ckpt"))
    rows = [{"id": f"row {i}", "prompt": "The boat " * (i * 3 % 5)} for i in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def commands(out: str) -> list[list[str]]:
        decoded = ["--sampler", "random_remasking", "--device", "cpu"]
        answers = ["generate", model, str(tmp_path / "in.jsonl"), str(tmp_path / f"{out}.jsonl"), *decoded]
        scores = ["evaluate", model, "--include_path", str(tasks), "--output", str(tmp_path / f"{out}.json"), *decoded]
        scores += [
            "--estimator",
            "ConditionalLikelihood",
            "--estimator.num_samples",
            "2",
            "--estimator.batch_size",
            "2",
            "--num_new_tokens",
            "4",
        ]
        names = [word for task in ("boat_choice", "boat_answer") for word in ("--tasks", task)]
        return [[*answers, "--num_new_tokens", "5", "--batch_size", "2"], [*scores, *names]]

    assert [main(command) for command in commands("one")] == [0, 0]
    capsys.readouterr()
    store, where = meeting_point()
    ranks = [FORK.Process(target=run_rank, args=(rank, where, tmp_path, commands("two"))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    del store
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert (one["how"].pop("processes"), two["how"].pop("processes")) == (1, 2)
    assert one["how"].pop("date") <= two["how"].pop("date")
    assert two == one
    assert [json.loads(line)["id"] for line in (tmp_path / "two.jsonl").read_text().splitlines()] == [
        row["id"] for row in rows
    ]
    assert "5 answers written" in (tmp_path / "said-0").read_text()
    assert (tmp_path / "said-1").read_text() == ""
