"""Damage the inputs of commands at random: every one ends with a clear error, or with a result.

    python -m benchmarks.soak_inputs                  # 2,000 inputs
    python -m benchmarks.soak_inputs --count 50 --seed 7
    python -m benchmarks.soak_inputs --seed 7 --first 50 --count 50  # the next 50, in another run
    python -m benchmarks.soak_inputs --seed 7 --only 31,44           # these again, with all that they say

The run that begins with input 0 first makes sure that the inputs are good before they are damaged.

An error is clear if the command ends with status 1 or 2 and names the file, the folder or the command that it is
about, in less than `SECONDS` of computing. A traceback, status 70 (a bug), a line without the name, or more time isn't.
Some damage can't be seen, such as another digit in a weight, or leaves the input as good as it was: these inputs give a
result, and are counted by themselves.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import math
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from typing_extensions import override

from benchmarks.soak_damage import KINDS, Kind, prepare
from llada.cli import main as llada
from llada.cli import train
from llada.cli.train import LLaDACLI
from llada.files.visible import visible

SECONDS = 20
REPORT = 50
"""Inputs after which the count so far is told."""


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


class Remembering(LLaDACLI):
    """Parses the same words and the same configuration once: that takes most of a command's time."""

    seen: ClassVar[dict[object, Any]] = {}

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        files = [path.read_bytes() for path in sorted(Path().glob("*.yaml"))]
        key = (*words, *files)
        if key not in self.seen:
            super().parse_arguments(parser, args)
            self.seen[key] = deepcopy(self.config)
        self.config = deepcopy(self.seen[key])


def outcome(command: list[str]) -> tuple[int, str]:
    """Exit status and errors of a command; -1 if it took too long."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            with at_most(SECONDS), mock.patch.object(train.run, "__defaults__", (Remembering,)):
                status = llada(command)
        except SystemExit as end:
            status = int(end.code or 0)
        except TookTooLong:
            return -1, f"more than {SECONDS} seconds"
        finally:
            logging.disable(logging.NOTSET)
    return status, error.getvalue().strip()


def check_whole(whole: Path, folder: Path) -> None:
    """Run every kind's command on inputs that nobody has damaged, since errors of these would pass for good ones."""
    for name, kind in KINDS.items():
        if kind.files:
            ended, said = try_one(whole, folder, dataclasses.replace(kind, damage=lambda content: content))
            assert ended == "result", f"{name}: {said}"


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
    words = [*filter(None, kind.named.split(",")), *([] if name is None else [name.name])]
    clear = status in (1, 2) and "Traceback" not in said and any(word in said for word in words)
    return ("clear" if clear else "unclear"), f"status {status}: {said}"


def fuzz(
    numbers: Iterable[int], seed: int, seconds: float = math.inf, *, tell_all: bool = False, check: bool = False
) -> Counter[str]:
    """Damage inputs, the kinds in turn; how many ended how. What isn't clear is printed.

    Args:
        numbers: of the inputs.
        seed: of the damage: input i of a seed is the same whichever others are tried.
        seconds: after which no further input is begun.
        tell_all: print how every input ended, and what its command said.
        check: first make sure that the inputs are good before they are damaged.
    """
    end = time.monotonic() + seconds
    found: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "whole").mkdir()
    prepare(folder / "whole", outcome)
    if check:
        check_whole(folder / "whole", folder / "one")
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
        if found.total() % REPORT == 0:  # what is known where a time limit ends this
            print(f"{dict(found)} up to input {number}", flush=True)
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
    first = not some and options.first == 0
    found = fuzz(numbers, options.seed, options.seconds, tell_all=bool(some), check=first)
    print(
        f"{found.total() - found['unclear']} of {found.total()} inputs gave a clear error ({found['clear']}) or a "
        f"result ({found['result']})"
    )
    return int(found["unclear"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
