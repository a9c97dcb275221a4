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


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], [], ["--version"], ["fti"]])
def test_help_version_and_mistakes_need_no_torch(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.returncode == (2 if arguments == ["fti"] else 0)


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
    assert main(["trian"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"llada: there is no command 'trian'; the commands are {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(llada: Command, command: str) -> None:
    run = llada(command, "--help")
    assert run.code == 0
    assert run.out.startswith("usage: llada ")
    assert command in run.out.splitlines()[0]


@pytest.mark.parametrize("command", ["sample", "score", "tokenizer show", "tokenizer train"])
def test_a_misspelt_option_is_named(llada: Command, command: str) -> None:
    run = llada(*command.split(), "--chekpoint", "model.ckpt")
    assert run.code == 2
    assert "unrecognized arguments: --chekpoint model.ckpt" in run.err or "required" in run.err
    run = llada(*command.split(), "--help")
    assert "--chekpoint" not in run.out


@pytest.mark.parametrize("option", ["--promt=x", "--num_sample=3", "--sampler.stpes=3", "--jsonl=yes"])
def test_options_are_neither_guessed_nor_completed(llada: Command, option: str) -> None:
    run = llada("sample", "--checkpoint", "model.ckpt", option)
    assert run.code == 2
    assert option.partition("=")[0].removeprefix("--").split(".")[-1] in run.err


def test_what_a_function_raises_is_a_line_and_not_a_traceback(llada: Command) -> None:
    run = llada("sample", "--checkpoint", "nowhere.ckpt")
    assert (run.code, run.out, run.err) == (1, "", "llada sample: there is no checkpoint nowhere.ckpt\n")
