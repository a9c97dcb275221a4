"""The front: help without torch, commands that don't exist, options that are misspelt."""

import subprocess
import sys

import pytest

import llada as package
from llada.cli import COMMANDS, main
from tests.cli.conftest import Command

WITHOUT_TORCH = """
import sys
from llada.cli import main

code = main(sys.argv[1:])
print([name for name in ("torch", "lightning", "jsonargparse", "rich") if name in sys.modules])
sys.exit(code)
"""


NEEDING_NO_TORCH = {
    "--help": 0, "-h": 0, "help": 0, "": 0, "--version": 0, "fti": 2, "sample --help": 0, "tokenizer": 0,
    "fit --help": 0, "sample nowhere.ckpt": 1, "score a/b/c": 1, "generate . nowhere.jsonl out.jsonl": 1,
    "convert . .": 1, "sample . --promt x": 2, "chat . --seed x": 2, "fit": 2, "fit --config nowhere.yaml": 2,
    "fit --ckpt_path nowhere.ckpt --data x": 1, "validate --trianer.devices 1": 2,
    "evaluate --protocol list": 0, "evaluate --protocol llada-8b-base/gsm": 2, "evaluate --tasks x": 2,
    "evaluate --protocol llada-8b-base/humaneval": 1, "score . --prompt x": 1, "score . --text pyproject.toml": 1,
}  # fmt: skip
"""Command line -> exit status."""


@pytest.mark.parametrize("line", NEEDING_NO_TORCH)
def test_help_version_and_mistakes_need_no_torch(line: str) -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *line.split()], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.returncode == NEEDING_NO_TORCH[line], run.stderr
    assert run.stderr.count("\n") == (run.returncode != 0)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: llada COMMAND [OPTIONS]\n")
    for name, (_, line) in COMMANDS.items():
        assert f"  {name:<10}" in text
        assert line in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llada {package.__version__}\n"


def test_an_unknown_command_names_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smaple"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"llada: there is no command 'smaple'; did you mean sample? There are {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(llada: Command, command: str) -> None:
    run = llada(command, "--help")
    assert run.code == 0
    assert run.out.startswith("usage: llada ")
    assert command in run.out.splitlines()[0]


def test_what_a_function_raises_is_a_line_and_not_a_traceback(llada: Command) -> None:
    run = llada("sample", "--checkpoint", "nowhere.ckpt")
    assert (run.code, run.out, run.err) == (1, "", "llada sample: there is no checkpoint nowhere.ckpt\n")
