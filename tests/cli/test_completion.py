"""A shell completes what the commands take."""

from argparse import ArgumentParser, _SubParsersAction
from typing import Any

import pytest

from llada.cli.commands import COMMANDS
from llada.cli.completion import parser
from llada.cli.signature import read
from llada.samplers import PRESETS
from tests.cli.conftest import Command


def parsers(made: ArgumentParser) -> dict[str, ArgumentParser]:
    (group,) = (action for action in made._actions if isinstance(action, _SubParsersAction))
    return dict(group.choices)


def test_every_command_and_option_is_completed() -> None:
    files: Any = {"bash": "_files"}
    commands = parsers(parser(files))
    assert list(commands) == list(COMMANDS)
    options = commands["sample"]._option_string_actions
    assert {f"--{option.name}" for option in read("llada.cli.sample", "sample", "sample").options} <= set(options)
    assert options["--sampler"].choices == list(PRESETS)
    assert getattr(options["--prompts_file"], "complete", None) == files
    assert getattr(options["--seed"], "complete", None) is None
    assert options["--jsonl"].nargs == 0
    assert {"--trainer.max_steps", "--model.backbone", "--init_from"} <= set(commands["fit"]._option_string_actions)
    assert list(parsers(commands["tokenizer"])) == ["train", "show", "extract"]
    for each in commands.values():
        assert each.format_help()


def test_the_script_is_printed(llada: Command) -> None:
    pytest.importorskip("shtab")
    run = llada("completion", "bash")
    assert run.code == 0, run.err
    assert "--block_length" in run.out
    run = llada("completion", "bsh")
    assert (run.code, run.err.partition("?")[0]) == (2, "llada completion: there is no shell 'bsh'; did you mean bash")


def test_without_the_package_the_extra_is_named(llada: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    run = llada("completion")
    assert (run.code, run.err) == (
        1,
        "llada completion: completion needs the package shtab: pip install llada[completion]\n",
    )
