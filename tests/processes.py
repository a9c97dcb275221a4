"""New Python processes that have imported torch and Lightning already, which is most of what a short one does.

They are forked from a server that is a process of its own, not from the tests' one, whose threads and state they would
inherit. Where the start of Python itself is what is tested, use ``subprocess``.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
IMPORTED = ["torch", "lightning.pytorch", "torch.distributed.fsdp", "llada.cli.train", "llada.module"]


class Ended(NamedTuple):
    """What a process did: its exit status or minus the signal that ended it, and what it printed, errors included."""

    returncode: int
    output: str


@cache
def server() -> ForkServerContext:
    """Where processes come from; it is started with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def _be_python(arguments: list[str], environment: dict[str, str], cwd: str, printed: str) -> None:
    """Do what ``python ARGUMENTS`` does in a folder."""
    os.setpgid(0, 0)
    os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    first, *rest = arguments
    if first == "-c":
        sys.argv, code = ["-c", *rest[1:]], compile(rest[0], "<string>", "exec")
        exec(code, {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


class Running:
    """A process like that of ``python ARGUMENTS``, with ``-c``, ``-m`` or a file."""

    def __init__(self, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        handle, self.printed = tempfile.mkstemp(prefix="process-")
        os.close(handle)
        given = (list(map(str, arguments)), dict(os.environ if env is None else env), str(cwd or Path.cwd()))
        self.process: ForkServerProcess = server().Process(target=_be_python, args=(*given, self.printed), daemon=True)
        self.process.start()

    def end(self, timeout: float = 300.0) -> Ended:
        """Wait for the end; a process that takes longer is killed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        output = Path(self.printed).read_text(encoding="utf-8", errors="replace")
        os.unlink(self.printed)
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, output)


def run_python(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ended:
    """As ``subprocess.run([sys.executable, ARGUMENTS...])``."""
    return Running(*arguments, cwd=cwd, env=env).end()
