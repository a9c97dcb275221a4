"""The command line: ``llada COMMAND ...``. Nothing here needs torch or Lightning: help and refusals come at once.

A command is a function whose arguments are its options. `llada.cli.signature` reads them from the source, and its words
are looked at (`llada.cli.preflight`) before the module is imported.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from llada.cli.boundary import guarded
from llada.cli.commands import COMMANDS, TRAINERS
from llada.cli.nearest import no_such

__all__ = ["COMMANDS", "help_text", "main"]


def help_text() -> str:
    """What ``llada --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llada COMMAND [OPTIONS]",
            "",
            "Masked diffusion language models: train, sample, score.",
            "",
            "commands:",
            *lines,
            "",
            "`llada COMMAND --help` lists the options of a command.",
            "`llada --debug COMMAND` shows where an error comes from.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: instead of the process's own.

    Returns:
        The exit status, see `llada.cli.boundary`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = arguments[:1] == ["--debug"]
    arguments = arguments[debug:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        from llada import __version__

        print(f"llada {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"llada: {no_such('command', command, COMMANDS)}", file=sys.stderr)
        return 2
    if os.getcwd() not in sys.path:  # last, so that a user's own parts are found and nothing else is hidden by them
        sys.path.append(os.getcwd())
    run = _prepared(command, rest)
    if debug or os.environ.get("LLADA_DEBUG"):
        run()
        return 0
    return guarded(command, run, rest)


def _prepared(command: str, words: list[str]) -> Callable[[], None]:
    """The command with its words, which are looked at before the module is imported."""
    module = COMMANDS[command][0]

    def run() -> None:
        if module in TRAINERS:
            from llada.cli.train_front import answered
        else:
            from llada.cli.function_front import answered
        if not answered(module, command, words):
            importlib.import_module(module).main(command, words)

    return run
