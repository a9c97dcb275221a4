"""Damage the inputs of commands at random: every one ends with a clear error, or with a result.

    python -m benchmarks.soak_inputs                  # 2,000 inputs
    python -m benchmarks.soak_inputs --count 50 --seed 7
    python -m benchmarks.soak_inputs --seed 7 --first 50 --count 50  # the next 50, in another run
    python -m benchmarks.soak_inputs --seed 7 --only 31,44           # these again, with all that they say

An error is clear if the command ends with status 1 or 2 and names the file, the folder or the command that it is
about, in less than `SECONDS` of computing. A traceback, status 70 (a bug), a line without the name, or more time isn't.
Some damage can't be seen, such as another digit in a weight, or leaves the input as good as it was: these inputs give a
result, and are counted by themselves.
"""

import argparse
import contextlib
import io
import json
import logging
import math
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llada.cli import main as llada
from llada.files.visible import visible
from llada.module import DiffusionLM

SECONDS = 20
VALUES: list[Any] = [None, True, -1, 0, 1, 2**63, 1e308, "", "\x1b[2J", "x" * 5000, [], [[]], {}, {"a": 1}]
PIECES = ["(", ")", "[", "]", "{3}", "{2,1}", "*", "+", "?", "|", "\\", "\\d", "^", "$", ".", "a", "(?=b)", "\\1", "é"]
CONFIG = """
data:
  class_path: TextDataModule
  init_args:
    source: {class_path: TextFiles, init_args: {paths: story.txt, split_on_blank_lines: true}}
    tokenizer: {class_path: SentencePieceTraining, init_args: {vocab_size: 290}}
    max_length: 16
    batch_size: 4
    val_fraction: 0.2
    cache_folder: cache
model:
  backbone: {class_path: BidirectionalTransformer, init_args: {width: 16, num_layers: 1, num_heads: 2}}
trainer:
  accelerator: cpu
  max_steps: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  limit_val_batches: 1
  callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: ., filename: model, enable_version_counter: false}}]
"""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        files: pattern of the files that are damaged, one at a time; empty: the input is made up.
        damage: the new content from the old one.
        command: the command line; ``VALUE`` in it stands for a made-up input.
        named: what the error may name instead of the file.
    """

    files: str
    damage: Callable[[bytes], bytes]
    command: tuple[str, ...]
    named: str = ""


def bytes_of(content: bytes) -> bytes:
    """Cut it off, or empty, repeat, fill or replace a part."""
    first, second = sorted(random.randrange(len(content) + 1) for _ in range(2))
    part = content[first:second]
    new = random.choice([b"", bytes(len(part)), part * 2, random.randbytes(len(part)), random.randbytes(3)])
    return random.choice([content[:first], content[:first] + new + content[second:]])


def json_of(content: bytes) -> bytes:
    """Another value at a random place of a JSON document, or a place less; now and then other bytes."""
    if random.random() < 0.2:
        return bytes_of(content)
    document = json.loads(content)
    place: Any = document
    while True:
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.3:
            break
        place = place[key]
    if random.random() < 0.25:
        del place[key]
    else:
        place[key] = random.choice(VALUES)
    return json.dumps(document).encode()


def expression(_: bytes) -> bytes:
    """A regular expression, most often none."""
    return "".join(random.choices(PIECES, k=random.randint(1, 12))).encode()


SAMPLE = ("sample", "--num_new_tokens=2")
FOLDER = (*SAMPLE, "--checkpoint=released", "--tokenizer=words")
KINDS = {
    "checkpoint": Kind("model.ckpt", bytes_of, (*SAMPLE, "--checkpoint=model.ckpt")),
    "config.json": Kind("released/config.json", json_of, FOLDER, "released"),
    "weights": Kind("released/*.safetensors", bytes_of, FOLDER, "released"),
    "tokenizer": Kind("words/*", bytes_of, FOLDER, "words"),
    "prompts": Kind("prompts.txt", bytes_of, (*SAMPLE, "--checkpoint=model.ckpt", "--prompts_file=prompts.txt")),
    "configuration": Kind("config.yaml", bytes_of, ("fit", "--config=config.yaml", "--overwrite")),
    "token file": Kind("cache/*/*.tokens", bytes_of, ("fit", "--config=config.yaml", "--overwrite"), ".tokens"),
    "expression": Kind("", expression, (*SAMPLE, "--checkpoint=model.ckpt", "--regex=VALUE"), "llada sample"),
}


class TookTooLong(BaseException):
    """Raised where a command is that has had its time; none of a command's handlers takes it for its own."""


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End what takes longer: so many seconds of computing, or ten times as many on the clock of a busy machine."""

    def end(*_: object) -> None:
        raise TookTooLong

    before = {kind: signal.signal(kind, end) for kind in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(10 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def outcome(command: list[str]) -> tuple[int, str]:
    """Exit status and errors of a command; -1 if it took too long."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            with at_most(SECONDS):
                status = llada(command)
        except SystemExit as end:
            status = int(end.code or 0)
        except TookTooLong:
            return -1, f"more than {SECONDS} seconds"
        finally:
            logging.disable(logging.NOTSET)
    return status, error.getvalue().strip()


def prepare(folder: Path) -> None:
    """A model that was trained for a step, as checkpoint and as released folder, its tokenizer, and its data."""
    (folder / "story.txt").write_text("\n\n".join(f"boat {n} is on the river" for n in range(120)), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "prompts.txt").write_text("boat 1 is\nboat 12 is on\n", encoding="utf-8")
    with contextlib.chdir(folder):
        for command in (
            ["fit", "--config=config.yaml"],
            ["tokenizer", "extract", "--checkpoint=model.ckpt", "--out=words"],
        ):
            status, said = outcome(command)
            assert status == 0, said
        DiffusionLM.load_from_checkpoint("model.ckpt").save_pretrained("released", layout="llada")


def try_one(whole: Path, folder: Path, kind: Kind) -> tuple[str, str]:
    """Damage one input: "clear", "result" or "unclear", and what the command said."""
    shutil.copytree(whole, folder)
    with contextlib.chdir(folder):
        names = sorted(Path().glob(kind.files)) if kind.files else []
        name = random.choice(names) if names else None
        made, command = kind.damage(b"" if name is None else name.read_bytes()), list(kind.command)
        if name is None:
            command = [word.replace("VALUE", made.decode()) for word in command]
        else:
            name.write_bytes(made)
        status, said = outcome(command)
    shutil.rmtree(folder)
    if status == 0:
        return "result", ""
    words = [kind.named] if name is None else [kind.named or name.name, name.name]
    clear = status in (1, 2) and "Traceback" not in said and any(word in said for word in words)
    return ("clear" if clear else "unclear"), f"status {status}: {said}"


def fuzz(numbers: Iterable[int], seed: int, seconds: float = math.inf, *, tell_all: bool = False) -> Counter[str]:
    """Damage inputs, the kinds in turn; how many ended how. What isn't clear is printed.

    Args:
        numbers: of the inputs.
        seed: of the damage: input i of a seed is the same whichever others are tried.
        seconds: after which no further input is begun.
        tell_all: print how every input ended, and what its command said.
    """
    end = time.monotonic() + seconds
    found: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "whole").mkdir()
    prepare(folder / "whole")
    names = list(KINDS)
    for number in numbers:
        if time.monotonic() > end:
            break
        name = names[number % len(names)]
        random.seed(f"{seed} {number}")
        torch.manual_seed(0)
        ended, said = try_one(folder / "whole", folder / "one", KINDS[name])
        found[ended] += 1
        if tell_all:
            print(f"{name}, input {number} of seed {seed}, {ended}: {said}", flush=True)
        elif ended == "unclear":
            print(f"{name}, input {number} of seed {seed}: {visible(said)[-400:]}", flush=True)
    shutil.rmtree(folder)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status says whether no input ended unclearly."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m benchmarks.soak_inputs"
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", default="", help="numbers of inputs, with commas between them: these alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no further input after these")
    options = parser.parse_args(arguments)
    some = [int(number) for number in options.only.split(",") if number]
    numbers = some or range(options.first, options.first + options.count)
    found = fuzz(numbers, options.seed, options.seconds, tell_all=bool(some))
    print(
        f"{found.total() - found['unclear']} of {found.total()} inputs gave a clear error ({found['clear']}) or a "
        f"result ({found['result']})"
    )
    return int(found["unclear"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
