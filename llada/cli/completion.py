"""``llada completion bash | zsh | tcsh``: a script by which a shell completes commands, options, presets and files.

    llada completion bash > ~/.local/share/bash-completion/completions/llada

Needs the extra ``completion`` (shtab). The script is made once, so that completing costs no start of Python.
"""

import argparse
import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llada.cli.boundary import Misunderstood
from llada.cli.commands import COMMANDS, SUBCOMMANDS, TRAINERS
from llada.cli.kinds import Word
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain
from llada.cli.signature import FILES, Option, Signature, read
from llada.cli.train_options import FLAGS, names

SHELLS = ("bash", "zsh", "tcsh")
_EQUALS = """
# bash cuts --name=value into three words, and shtab knows of two.
_llada() {
  local -a words=()
  local index
  for ((index = 0; index <= COMP_CWORD; index++)); do
    if [[ ${COMP_WORDS[index]} == "=" && index -gt 0 && ${COMP_WORDS[index - 1]} == --* ]]; then
      ((index < COMP_CWORD)) || words+=("")
    else
      words+=("${COMP_WORDS[index]}")
    fi
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$((${#words[@]} - 1))
  _shtab_llada "$@"
}
complete -o bashdefault -F _llada llada
"""


def completion(shell: Word = "bash") -> None:
    """Print a script by which a shell completes commands, options, presets and files.

    Args:
        shell: bash, zsh or tcsh.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs the package shtab: pip install llada[completion]") from error
    if shell not in SHELLS:
        raise Misunderstood(no_such("shell", shell, SHELLS))
    print(shtab.complete(parser(shtab.FILE), shell), end="\n" if shell != "bash" else _EQUALS)


def parser(files: Any) -> argparse.ArgumentParser:
    """All commands and their options, as far as a shell wants to know them.

    Args:
        files: how shtab is told that files stand in a place.
    """
    whole = argparse.ArgumentParser(prog="llada")
    for name in ("version", "debug"):
        whole.add_argument(f"--{name}", action="store_true")
    commands = whole.add_subparsers()
    for command, (module, line) in COMMANDS.items():
        made = commands.add_parser(command, help=line)
        if module in TRAINERS:
            if command == "check":
                made.add_argument("config", nargs="?").complete = files  # type: ignore[attr-defined]
            for name in FLAGS:
                made.add_argument(f"--{name}", action="store_true")
            for name in _of_training(command):
                made.add_argument(f"--{name}").complete = files  # type: ignore[attr-defined]
        elif command in SUBCOMMANDS:
            inner = made.add_subparsers()
            for word in SUBCOMMANDS[command]:
                signature = read(module, word, f"{command} {word}")
                _add(inner.add_parser(word, help=signature.summary), signature, files)
        else:
            _add(made, read(module, command, command), files)
    return whole


def _add(made: argparse.ArgumentParser, signature: Signature, files: Any) -> None:
    for option in signature.positional:
        _complete(made.add_argument(option.name, nargs="?", choices=_choices(option, signature)), option, files)
    for option in signature.options:
        if option.is_flag:
            made.add_argument(f"--{option.name}", action="store_true", help=option.help.replace("%", "%%"))
        else:
            text = option.help.replace("%", "%%")
            added = made.add_argument(f"--{option.name}", choices=_choices(option, signature), help=text)
            _complete(added, option, files)


def _complete(added: argparse.Action, option: Option, files: Any) -> None:
    if option.kind.removesuffix(" | None") in FILES:
        added.complete = files  # type: ignore[attr-defined]


def _choices(option: Option, signature: Signature) -> list[str] | None:
    """The names among which an option chooses."""
    kind = option.kind.removesuffix(" | None")
    if kind == "bool":
        return ["true", "false"]
    if kind.startswith("Literal["):
        return [str(name) for name in ast.literal_eval(f"({kind.removeprefix('Literal[').removesuffix(']')},)")]
    place = "sampler" if kind == "Sampler" else f"{signature.command} {option.name}"
    return list(_NAMES[place]()) if place in _NAMES else None


def _presets() -> Sequence[str]:
    from llada.samplers import PRESETS

    return list(PRESETS)


def _configurations() -> Sequence[str]:
    from llada.cli.config import configurations

    return list(configurations())


def _claims() -> Sequence[str]:
    from llada.published import CATALOGUE

    return list(CATALOGUE)


def _protocols() -> Sequence[str]:
    from llada.cli.protocols import LIST
    from llada.evaluation.protocols import PROTOCOLS

    return [LIST, *PROTOCOLS]


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "sampler": _presets,
    "samplers name": _presets,
    "config name": _configurations,
    "reproduce name": _claims,
    "evaluate protocol": _protocols,
    "completion shell": lambda: SHELLS,
}
"""Command and option -> the names there are; "sampler" is an option of many."""


def _of_training(command: str) -> Iterator[str]:
    """Options of the training that take a value, down to the arguments of Trainer, model and the usual data."""
    from lightning.pytorch import Trainer

    from llada.data import TextDataModule
    from llada.module import DiffusionLM

    yield "config"
    yield from (name for name in names(command) if name not in FLAGS)
    for group, cls in (("trainer", Trainer), ("model", DiffusionLM), ("data", TextDataModule)):
        for name in list(inspect.signature(cls).parameters):
            yield f"{group}.{name}"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(completion, command, arguments)
