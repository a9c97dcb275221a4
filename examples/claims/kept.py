"""Runs that are measured once and kept, a line each in a file, so that a stopped command goes on; several at a time.

kept = Kept(folder / "points.jsonl", Point)
kept.fill({key: partial(measure, seed), ...}, jobs=2)     # what isn't known, in processes of their own
point = kept.get(key, partial(measure, seed))             # from the file, or measured here and now
"""

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
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
