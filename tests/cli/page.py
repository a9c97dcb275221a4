"""A page of the documentation as a reader walks it: its files are written, and its commands run in their order."""

import io
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llada.cli import main
from tests.test_documented_commands import BASH_BLOCK, ROOT, lines_of

FILE_BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)


def walk(
    page: str,
    extra: Callable[[Sequence[str]], Sequence[str] | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """Walk a page in the working directory.

    Args:
        page: its path under docs/.
        extra: the words of a command -> options that make it small, to be put behind them; None for what isn't run.
        monkeypatch: of the test.
        capsys: of the test.

    Returns:
        The names of the commands that ran.
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, content in FILE_BLOCK.findall(text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    ran = []
    for program, *words in map(shlex.split, lines_of("".join(BASH_BLOCK.findall(text)))):
        more = extra(words) if program == "llada" else None
        if more is None:
            continue
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO("Where is the boat?\n/quit\n"))
        if ">" in words:
            assert main(words[: words.index(">")]) == 0
            Path(words[-1]).write_text(capsys.readouterr().out, encoding="utf-8")
        else:
            assert main([*words, *more]) == 0, (words, capsys.readouterr().err)
        ran.append(words[0])
    return ran
