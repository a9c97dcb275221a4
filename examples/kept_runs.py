"""Studies whose runs are kept one by one, so that one that was stopped goes on where it was."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Study:
    """Runs that are kept one by one.

    Args:
        folder: of the files.
        seeds: how many runs each model gets.
    """

    folder: Path
    seeds: int

    def runs(self, names: list[str], run: Callable[[str, int], dict[str, Any]]) -> Iterator[tuple[str, int, Any]]:
        """The result of each name and seed, from its file or by running it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for seed in range(self.seeds):
            for name in names:
                path = self.folder / f"{name.replace(' ', '-')}-{seed}.json"
                if not path.exists():
                    begin = time.process_time()
                    found = run(name, seed)
                    found["processor_seconds"] = time.process_time() - begin
                    path.write_text(json.dumps(found), encoding="utf-8")
                    print(f"{name}, seed {seed}: {found['processor_seconds']:.0f} s", flush=True)
                yield name, seed, json.loads(path.read_text(encoding="utf-8"))
