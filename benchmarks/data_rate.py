"""Tokens per second of process time that a training loader delivers.

A memory-mapped token file of random tokens in a temporary folder, rows of 1,024, batches of 8, no worker processes.
Ours gathers a batch at once from the map; with separate documents it also tells which document every token belongs to.
The plain side holds rows as lists of integers and pads them in a collator. The same rows must give the same tokens
before anything is timed.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import naive
from benchmarks.results import Goal, Plot, Result, Row, finish, options, parse
from benchmarks.timing import interleave
from llada.data import TokenFile, TokenFileWriter, TokenRows
from llada.data.loader import training_loader

GOAL = 50.0


def write(folder: Path, num_tokens: int, document: int, vocab_size: int) -> TokenFile:
    """A token file of documents of random lengths, ``document`` tokens on average."""
    random = np.random.default_rng(0)
    with TokenFileWriter(folder / "random.tokens", vocab_size, "random") as writer:
        while writer.num_tokens < num_tokens:
            writer.add(random.integers(vocab_size, size=int(random.integers(1, 2 * document)), dtype=np.int64))
    return TokenFile(folder / "random.tokens")


def drain(loader: Iterable[Any], num_batches: int) -> int:
    """Take some batches; the tokens in them."""
    count = 0
    for number, batch in enumerate(loader, start=1):
        count += batch["tokens"].numel()
        if number == num_batches:
            break
    return count


def loaders(file: TokenFile, given: Any) -> dict[str, Iterable[Any]]:
    """What is compared."""
    rows, apart = TokenRows(file, given.length), TokenRows(file, given.length, separate_documents=True)
    lists = [rows[index]["tokens"].tolist() for index in range(min(len(rows), given.batches * given.rows))]
    fill = partial(naive.collate_lists, fill=0)
    first = list(range(given.rows))
    if not torch.equal(rows.__getitems__(first)["tokens"], fill([lists[index] for index in first])["tokens"]):
        raise SystemExit("the loaders give different tokens; nothing was timed")
    return {
        "token file": training_loader(rows, given.rows, 0, 0),
        "token file, separate documents": training_loader(apart, given.rows, 0, 0),
        "lists and a collator": DataLoader(lists, given.rows, shuffle=True, collate_fn=fill, drop_last=True),  # type: ignore[arg-type]
    }


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--tokens", type=int, default=20_000_000, help="in the file")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batches", type=int, default=500, help="per round")
    parser.add_argument("--document", type=int, default=500, help="mean tokens per document")
    given: Any = parse(parser, arguments)
    with tempfile.TemporaryDirectory() as folder:
        sources = loaders(write(Path(folder), given.tokens, given.document, 32_000), given)
        runs: dict[str, Callable[[], int]] = {
            name: partial(drain, loader, given.batches) for name, loader in sources.items()
        }
        counts = {name: run() for name, run in runs.items()}
        times = interleave(runs, given.rounds)
    rows: list[Row] = [
        {
            "loader": name,
            "million tokens per cpu s": counts[name] / cpu / 1e6,
            "ms per batch": 1e3 * cpu * given.rows * given.length / counts[name],
        }
        for name, (cpu, _) in times.items()
    ]
    goals = [
        Goal(f"{row['loader']}, million tokens per cpu s", row["million tokens per cpu s"], GOAL) for row in rows[:2]
    ]
    plot = Plot("loader", "million tokens per cpu s", title="Training loaders", goal=GOAL)
    return finish(Result("data_rate", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
