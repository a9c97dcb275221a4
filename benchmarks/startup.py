"""What importing the package and asking for help costs.

Process time of fresh interpreters, children of this one. That neither torch nor lightning is loaded is checked first.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.results import Goal, Plot, Result, Row, finish, options, parse

IMPORT, HELP = "import llada", "llada --help"
GOALS = {IMPORT: 0.15, HELP: 0.3}
COMMANDS = {
    "python alone": ["-c", "pass"],
    IMPORT: ["-c", "import llada"],
    HELP: ["-c", "from llada.cli import main; main(['--help'])"],
    "import torch": ["-c", "import torch"],
    "import lightning": ["-c", "import lightning"],
}


def check() -> None:
    """The front must not load what it doesn't need."""
    heavy = "{'torch', 'lightning', 'numpy', 'transformers'}"
    code = f"import sys, llada, llada.cli; llada.cli.main(['--help']); sys.exit(bool({heavy} & set(sys.modules)))"
    if subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit("`import llada` or its help loads torch, lightning, numpy or transformers; nothing was timed")


def cost(words: Sequence[str]) -> float:
    """Process time of one interpreter, seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(names: Sequence[str], rounds: int) -> list[Row]:
    """Medians of interleaved rounds, after one to warm up the disk."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            seconds = cost(COMMANDS[name])
            if number:
                times[name].append(seconds)
    return [{"what": name, "cpu s": statistics.median(found)} for name, found in times.items()]


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--what", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    given: Any = parse(parser, arguments)
    check()
    rows = measure(given.what, given.rounds)
    goals = [
        Goal(f"`{row['what']}`, s", row["cpu s"], GOALS[row["what"]], most=True) for row in rows if row["what"] in GOALS
    ]
    plot = Plot("what", "cpu s", title="Start-up", ylabel="process time, s")
    return finish(Result("startup", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()
