"""A shell completes what the commands take."""

import shutil
import subprocess
from argparse import ArgumentParser, _SubParsersAction
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from llada.cli.commands import COMMANDS
from llada.cli.completion import SHELLS, completion, parser
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
    assert {"--trainer.max_steps", "--config", "--data.source"} <= set(commands["check"]._option_string_actions)
    for command in ("fit", "check", "validate"):
        assert commands[command]._option_string_actions["--overwrite"].nargs == 0
    for each in commands.values():
        assert each.format_help()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What bash sources, in a folder with two files."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    for name in ("model.ckpt", "mine.yaml"):
        (folder / name).touch()
    with (folder / "llada.bash").open("w", encoding="utf-8") as file, redirect_stdout(file):
        completion("bash")
    return folder / "llada.bash"


# As readline does it: the words are cut at spaces and at "=", and the function of `complete -p` is asked.
ASK = """
set -u
source ./llada.bash
set +u
function=$(complete -p llada | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
while IFS= read -r line; do
  COMP_WORDS=(); COMP_LINE=$line; COMP_POINT=${#line}
  IFS=$'\\t' read -r -a COMP_WORDS <<< "$line"
  [[ $line == *$'\\t' ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  $function llada "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_what_bash_answers(script: Path) -> None:
    files = {"llada.bash", "mine.yaml", "model.ckpt"}
    asked: dict[str, set[str]] = {
        "llada sa": {"sample", "samplers"},
        "llada --ver": {"--version"},
        "llada --debug samp": {"sample", "samplers"},
        "llada sample mo": {"model.ckpt"},
        "llada sample model.ckpt --sampler fast_dllm_p": {"fast_dllm_prefix"},
        "llada sample --sampler = fast_dllm_p": {"fast_dllm_prefix"},
        "llada sample --page ": files,
        "llada sample --page =": files,
        "llada sample --page = mo": {"model.ckpt"},
        "llada sample --sampler = comb --ste": {"--steps"},
        "llada sample --jsonl --see": {"--seed"},
        "llada sample --bos ": {"true", "false"},
        "llada sample --show --bos = t": {"true"},
        "llada fit --config mi": {"mine.yaml"},
        "llada fit --config = mine.yaml --overwrite --run": {"--run_folder"},
        "llada fit --data.so": {"--data.source"},
        "llada check mi": {"mine.yaml"},
        "llada check mine.yaml --trainer.max_s": {"--trainer.max_steps"},
        "llada config scaling/d": {"scaling/ddp"},
        "llada evaluate --likelihood ": {"bound", "sampler"},
        "llada evaluate --protocol llada-8b-base/gs": {f"llada-8b-base/gsm8k{end}" for end in ("", "-256", "-512")},
        "llada completion ": set(SHELLS),
        "llada tokenizer sh": {"show"},
        "llada tokenizer show mo": {"model.ckpt"},
    }
    lines = "".join(line.replace(" ", "\t") + "\n" for line in asked)
    done = subprocess.run(["bash", "-c", ASK], cwd=script.parent, input=lines, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    answers = dict(zip(asked, (set(line.split()) for line in done.stdout.splitlines()), strict=True))
    assert answers == asked


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
