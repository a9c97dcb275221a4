"""``llada completion bash | zsh | tcsh``: a script by which a shell completes commands, options, presets and files.

    llada completion bash > ~/.local/share/bash-completion/completions/llada

Needs the extra ``completion`` (shtab). The script is made once, so that completing costs no start of Python.
"""

import argparse
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from llada.cli.boundary import Misunderstood
from llada.cli.commands import COMMANDS, SUBCOMMANDS, TRAINERS
from llada.cli.kinds import Word
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain
from llada.cli.signature import Option, Signature, read
from llada.cli.train_options import names

_FILES = ("Checkpoint", "InputFile", "InputFolder", "NewPlace")


def completion(shell: Word = "bash") -> None:
    """Print a script by which a shell completes commands, options, presets and files.

    Args:
        shell: bash, zsh or tcsh.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs the package shtab: pip install llada[completion]") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise Misunderstood(no_such("shell", shell, shtab.SUPPORTED_SHELLS))
    print(shtab.complete(parser(shtab.FILE), shell))


def parser(files: Any) -> argparse.ArgumentParser:
    """All commands and their options, as far as a shell wants to know them.

    Args:
        files: how shtab is told that files stand in a place.
    """
    whole = argparse.ArgumentParser(prog="llada")
    commands = whole.add_subparsers()
    for command, (module, line) in COMMANDS.items():
        made = commands.add_parser(command, help=line)
        if module in TRAINERS:
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
    if option.kind.removesuffix(" | None") in _FILES:
        added.complete = files  # type: ignore[attr-defined]


def _choices(option: Option, signature: Signature) -> list[str] | None:
    """The names among which an option chooses."""
    if option.kind == "Sampler | None" or (signature.command, option.name) == ("samplers", "name"):
        from llada.samplers import PRESETS

        return list(PRESETS)
    if (signature.command, option.name) == ("config", "name"):
        from llada.cli.config import configurations

        return list(configurations())
    if (signature.command, option.name) == ("reproduce", "name"):
        from llada.published import CATALOGUE

        return list(CATALOGUE)
    return None


def _of_training(command: str) -> Iterator[str]:
    """Options of the training, down to the arguments of Trainer and model."""
    from lightning.pytorch import Trainer

    from llada.module import DiffusionLM

    yield "config"
    yield from names(command)
    for group, cls in (("trainer", Trainer), ("model", DiffusionLM)):
        for name in list(inspect.signature(cls.__init__).parameters)[1:]:
            yield f"{group}.{name}"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(completion, command, arguments)
