"""Runs that are measured once and kept, a line each in a file, so that a stopped command goes on; several at a time.

kept = Kept(folder / "points.jsonl", Point)
kept.fill({key: partial(measure, seed), ...}, jobs=2)     # what isn't known, in processes of their own
point = kept.get(key, partial(measure, seed))             # from the file, or measured here and now

for model, seed, found in study(folder / "study.jsonl", models, seeds=3, run=train_and_ask):
    found.values, found.seconds
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")


class Kept(Generic[Result]):
    """Results by key.

    Args:
        file: of lines of JSON, made with the first of them; a last line that was cut off is taken away.
        kind: dataclass of the results, of what JSON can hold.

    Attributes:
        known: all that there are.
        used: those that were asked for.
    """

    def __init__(self, file: Path, kind: Callable[..., Result]) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            file.write_text(whole, encoding="utf-8")
        self.known: dict[str, Result] = {
            entry.pop("run"): kind(**entry) for entry in map(json.loads, whole.splitlines())
        }
        self.used: dict[str, Result] = {}

    def get(self, key: str, measure: Callable[[], Result]) -> Result:
        """A result, from the file if it is there.

        Args:
            key: everything that it depends on.
            measure: called if it isn't known.
        """
        if key not in self.known:
            self._keep(key, measure())
        self.used[key] = self.known[key]
        return self.known[key]

    def fill(self, measures: Mapping[str, Callable[[], Result]], jobs: int) -> None:
        """Measure what isn't known, several at a time; with one job `get` does it as it is asked.

        Args:
            measures: by key; each can be pickled.
            jobs: processes, of a thread each.
        """
        missing = {key: measure for key, measure in measures.items() if key not in self.known}
        if jobs < 2 or len(missing) < 2:
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(missing)), context, torch.set_num_threads, (1,)) as pool:
            running = {pool.submit(measure): key for key, measure in missing.items()}
            for done in as_completed(running):
                self._keep(running[done], done.result())

    def _keep(self, key: str, result: Result) -> None:
        self.known[key] = result
        values: dict[str, Any] = asdict(result)  # type: ignore[call-overload]  # a dataclass
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": key, **values}) + "\n")


@dataclass(frozen=True)
class Found:
    """What a run of a study gave.

    Attributes:
        values: by name, of what JSON can hold.
        seconds: of the processor.
    """

    values: dict[str, Any]
    seconds: float


def study(
    file: Path, names: Sequence[str], seeds: int, run: Callable[[str, int], dict[str, Any]], jobs: int = 1
) -> Iterator[tuple[str, int, Found]]:
    """The runs of several models, as many of each, one seed after the other.

    Args:
        file: of the runs.
        names: of the models.
        seeds: how many runs each model gets.
        run: gets a name and a seed; with more than one job it can be pickled.
        jobs: runs at a time.
    """
    kept = Kept(file, Found)
    wanted = [(name, seed) for seed in range(seeds) for name in names]
    kept.fill({f"{name} {seed}": partial(_timed, run, name, seed) for name, seed in wanted}, jobs)
    for name, seed in wanted:
        yield name, seed, kept.get(f"{name} {seed}", partial(_timed, run, name, seed))


def _timed(run: Callable[[str, int], dict[str, Any]], name: str, seed: int) -> Found:
    began = time.process_time()
    values = run(name, seed)
    seconds = time.process_time() - began
    print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    return Found(values, round(seconds, 2))
