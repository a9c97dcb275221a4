"""Every command in the documentation is one that its program takes, and the files that it names are there.

Commands are the lines of the shell blocks, and the heads of the configurations. What is cheap is run; of the rest the
real parser reads the options, and stops before anything is built.
"""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jsonargparse
import pytest
from torch.distributed.run import get_args_parser

from llada import __version__
from llada.cli import COMMANDS, main, options, preflight, signature, train_front
from llada.cli.boundary import Misunderstood
from llada.cli.commands import PLAIN
from llada.cli.train import LLaDACLI

ROOT = Path(__file__).parents[1]
HEADS = sorted((ROOT / "examples" / "configs").rglob("*.yaml"))
NOTES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "benchmarks/README.md")]
PAGES = [*NOTES, *sorted((ROOT / "docs").rglob("*.md"))]
BASH_BLOCK = re.compile(r"^```(?:bash|sh|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\n(.*?)\ndone", re.DOTALL)
PROGRAMS = ("llada", "python", "torchrun", "make", "pip")

# Names that stand for files and folders of the reader's own.
READERS_OWN = {
    "preferences.jsonl", "model.ckpt", "pairs.jsonl", "questions.jsonl", "answers.jsonl", "prompts.jsonl",
    "tasks.jsonl",
    "texts/*.txt", "my_tasks", "held_out.txt", "model.json", "model.tokenizer.json",
    "start.ckpt", "start.json", "start.tokenizer.json", "finetune.yaml", "me/my-model", "GSAI-ML/LLaDA-8B-Instruct",
    "base.yaml", "pretrain.yaml", "mixture.yaml", "./mylab", "path/to/LLaDA-8B-Base",
    "token_cache/0123456789abcdef/train.tokens", "shards/train",
}  # fmt: skip
WRITTEN = {
    "--out",
    "--output",
    "--page",
    "--picture",
    "--folder",
    "--plot",
    "--run_folder",
}  # options that name what a command makes


class Understood(Exception):
    """The options were taken, and nothing needs to be built."""


def lines_of(text: str) -> Iterator[str]:
    """The commands of a shell text, with loops written out."""
    text = text.replace("\\\n", " ")
    done = 0
    for loop in LOOP.finditer(text):
        yield from _plain(text[done : loop.start()])
        name, values, body = loop.groups()
        for value in values.split():
            yield from lines_of(body.replace(f"${name}", value))
        done = loop.end()
    yield from _plain(text[done:])


def _plain(text: str) -> Iterator[str]:
    for line in text.splitlines():
        command = re.sub(r"\s+#.*$", "", line).strip()
        if command and not command.startswith("#"):
            yield command


def commands() -> list[tuple[str, str]]:
    """(page, command) of every shell block, and of the heads of the configurations."""
    found = []
    for page in PAGES:
        text = "".join(BASH_BLOCK.findall(page.read_text(encoding="utf-8")))
        found += [(str(page.relative_to(ROOT)), line) for line in lines_of(text)]
    for head in HEADS:
        text = "\n".join(line[1:] for line in head.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        lines = [line for line in lines_of(text) if line.startswith(("llada ", "python ", "torchrun "))]
        found += [(str(head.relative_to(ROOT)), line) for line in lines]
    return found


FOUND = commands()
LINES = list(dict.fromkeys(shlex.join(shlex.split(line)) for _, line in FOUND))  # however they are quoted


@pytest.fixture(autouse=True)
def parsers_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the repository, and nothing comes after the parsing."""

    def stop(*_: object, **__: object) -> None:
        raise Understood

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LLADA_DEBUG", "1")  # lets `Understood` through
    monkeypatch.setattr(jsonargparse.ArgumentParser, "instantiate_classes", stop)
    monkeypatch.setattr(jsonargparse.ArgumentParser, "instantiate", stop, raising=False)
    monkeypatch.setattr(LLaDACLI, "_parse_ckpt_path", lambda cli: None)
    for module in (preflight, options):  # the reader's files aren't here
        monkeypatch.setattr(module, "check_kind", lambda kind, value: None)
    monkeypatch.setattr(train_front, "_is_there", lambda path: True)


def understood(program: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program that a command begins with read the rest of it."""
    if ">" in program:
        program = program[: program.index(">")]
    match program:
        case ["llada", command, *arguments] if command in PLAIN:
            preflight.check(signature.read(COMMANDS[command][0], command, command), arguments)
        case ["python", "-m", "llada", *arguments] | ["llada", *arguments]:
            monkeypatch.setattr(sys, "argv", ["llada", *arguments])
            if {"--help", "--version"} & set(arguments) or arguments[-2:] == ["--protocol", "list"]:
                assert main() == 0
                return
            with pytest.raises(Understood):
                main()
        case ["python", "-m", module, *arguments]:
            spec = find_spec(module)
            assert spec is not None
            assert spec.origin is not None
            parse(spec.origin, module, arguments, monkeypatch)
        case ["python", script, *arguments]:
            parse(str(ROOT / script), None, arguments, monkeypatch)
        case ["torchrun", *arguments]:
            launched = get_args_parser().parse_args(arguments)
            assert launched.module
            understood(["python", "-m", launched.training_script, *launched.training_script_args], monkeypatch)
        case ["make", target, *settings]:
            assert all(re.fullmatch(r"[A-Z]+=.+", setting) for setting in settings)
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        case ["pip", "install", *arguments]:
            pip(arguments)
        case _:
            pytest.fail(f"no test knows the program {program[0]!r}")


def parse(path: str, module: str | None, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script or module until it has read its arguments."""
    assert Path(path).is_file()
    if module == "pytest":
        assert all((ROOT / file).exists() for file in arguments)
        return
    if not arguments:
        return
    reader = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: object, **named: object) -> None:
        reader(parser, *given, **named)  # type: ignore[call-overload]
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.syspath_prepend(str(Path(path).parent))
    with pytest.raises(Understood):
        runpy.run_path(path, run_name="__main__") if module is None else runpy.run_module(module, run_name="__main__")


def pip(arguments: list[str]) -> None:
    """What is installed from here has the extras that it is asked for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for wanted in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        assert set(wanted.split(",")) <= set(extras)


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    (tmp_path / "empty.json").write_text("{}", encoding="utf-8")
    empty = str(tmp_path / "empty.json")  # in place of the configurations that `llada convert` writes
    words = [empty if word in READERS_OWN and word.endswith(".json") else word for word in shlex.split(line)]
    own = tmp_path / "own.yaml"  # stands for a schedule of the reader's own
    own.write_text("model: {process: {init_args: {schedule: {class_path: llada.noise.PolynomialSchedule}}}}")
    made_of = {
        "mine.yaml": str(own) if "base.yaml" in words else "examples/configs/demo.yaml",
        "finetune.yaml": "examples/configs/finetune_chat.yaml",
    }
    made_of |= dict.fromkeys(("base.yaml", "pretrain.yaml"), "examples/configs/pretrain_llada.yaml")
    made_of |= {"mixture.yaml": empty}
    words = [made_of.get(word, word) for word in words]
    try:
        understood(words, monkeypatch)
    except SystemExit as end:
        assert not end.code, line  # noqa: PT017 - how argparse ends


def named_files(words: list[str]) -> Iterator[tuple[str, bool]]:
    """The words of a command that are paths, and whether the command makes them."""
    before = ""
    for word in words[1:]:
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        path = "/" in value or re.search(r"\.(ckpt|yaml|jsonl|json|md|py|txt)$", value)
        if (
            path
            and not word.startswith("-")
            and not set(value) & set(" ([")
            and option != "--metric"
            and not value.startswith("llada-8b-")
        ):
            yield value, option in WRITTEN or before == ">"
        before = word


@pytest.mark.parametrize("page", sorted({page for page, _ in FOUND}))
def test_files_that_commands_name_are_there_or_made_before(page: str) -> None:
    made = set(re.findall(r'^```\w+ title="([^"]+)"', (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))
    for _, line in (found for found in FOUND if found[0] == page):
        for path, written in named_files(shlex.split(line)):
            top, _, rest = path.partition("/")
            run = ROOT / "examples" / "configs" / f"{rest.partition('/')[0]}.yaml"  # each writes to runs/NAME
            known = (
                path in made | READERS_OWN
                or any(path.startswith(f"{folder}/") for folder in made)
                or top == "demo"
                or (top == "runs" and run.is_file())
            )
            assert written or known or (ROOT / path).exists(), (line, path)
            if written:
                made.add(path)


def test_no_kind_of_command_is_left_out() -> None:
    lines = [line for _, line in FOUND]
    assert len(lines) > 80
    assert {shlex.split(line)[0] for line in lines} == set(PROGRAMS)
    used = {line.split()[1] for line in lines if line.startswith("llada ")}
    assert used >= {
        "config",
        "check",
        "compare",
        "samplers",
        "reproduce",
        "completion",
        "fit",
        "sample",
        "score",
        "tokenizer",
        "generate",
        "chat",
        "convert",
        "evaluate",
    }
    assert used <= {*COMMANDS, "--help", "--version"}


@pytest.mark.parametrize(
    "line",
    [
        "llada sample demo/model.ckpt --promt x",
        "llada fit --config examples/configs/nowhere.yaml",
        "python -m llada smaple a",
        "torchrun --nnodes 2 --nproc-per-nod 8 -x -m llada fit",
        "torchrun -m llada fit --config examples/configs/demo.yaml --trainer.maximal_steps 3",
        "python -m examples.claims.reversal --quik",
        "python examples/nowhere.py",
        "python -m benchmarks.nowhere",
        "make coffee",
        "pip install -e '.[nothing]'",
        "conda install llada",
    ],
)
def test_a_wrong_one_would_be_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, Misunderstood, AssertionError, pytest.fail.Exception)) as caught:
        understood(shlex.split(line), monkeypatch)
    assert not isinstance(caught.value, SystemExit) or caught.value.code


def test_torchrun_starts_the_module() -> None:
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone"]
    run = subprocess.run([*arguments, "-m", "llada", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"llada {__version__}\n"
