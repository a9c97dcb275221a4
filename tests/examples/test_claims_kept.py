"""Runs are measured once, whoever measures them, and what was written is never lost."""

from functools import partial
from pathlib import Path

import pytest
import torch

from examples.claims.kept import Kept
from examples.claims.until import Patience

NUMBERS = (1.5, 1.2, 3, 40)


def kept(folder: Path) -> Kept[Patience]:
    return Kept(folder / "new" / "runs.jsonl", Patience)


def test_a_run_is_measured_once(tmp_path: Path) -> None:
    first = kept(tmp_path)
    assert first.get("a", partial(Patience, *NUMBERS)) == Patience(*NUMBERS)
    assert first.get("a", pytest.fail) == kept(tmp_path).get("a", pytest.fail) == Patience(*NUMBERS)  # type: ignore[arg-type]
    assert list(first.used) == ["a"]
    assert not kept(tmp_path).used


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    for key in "ab":
        kept(tmp_path).get(key, partial(Patience, *NUMBERS))
    file = kept(tmp_path).file
    file.write_text(file.read_text()[:-9])  # killed while it wrote
    assert list(kept(tmp_path).known) == ["a"]
    kept(tmp_path).get("c", partial(Patience, *NUMBERS))
    assert list(kept(tmp_path).known) == ["a", "c"]


class Threads(Kept[Patience]):
    """Keeps the number of threads of its processes, too."""

    def _keep(self, key: str, result: object) -> None:
        if key == "threads":
            self.known[key] = result  # type: ignore[assignment]
        else:
            super()._keep(key, result)  # type: ignore[arg-type]


def test_several_at_a_time_are_the_same_runs(tmp_path: Path) -> None:
    runs = Threads(tmp_path / "runs.jsonl", Patience)
    runs.get("known", partial(Patience, *NUMBERS))
    measures = {key: partial(Patience, 1.5 + number) for number, key in enumerate("abc")}
    runs.fill({"known": pytest.fail, "threads": torch.get_num_threads, **measures}, jobs=2)  # type: ignore[dict-item]
    assert list(runs.used) == ["known"]  # what is filled isn't asked for
    assert runs.known.pop("threads") == 1  # the same sums as in a command of one job
    again = Kept(runs.file, Patience)
    for key, measure in measures.items():
        assert runs.get(key, pytest.fail) == again.get(key, pytest.fail) == measure()  # type: ignore[arg-type]


def test_one_at_a_time_waits_until_it_is_asked(tmp_path: Path) -> None:
    runs = kept(tmp_path)
    runs.fill({"a": pytest.fail, "b": pytest.fail}, jobs=1)  # type: ignore[dict-item]
    assert not runs.known
