"""What a command answers from the text of its function alone: help, and what is wrong with its words."""

from importlib import import_module

from llada.cli.boundary import Misunderstood
from llada.cli.commands import EARLY, SUBCOMMANDS
from llada.cli.help import help_of
from llada.cli.nearest import no_such
from llada.cli.preflight import check, pairs
from llada.cli.signature import read

HELP = ("-h", "--help")


def answered(module: str, command: str, words: list[str]) -> bool:
    """Look at a command's words.

    Args:
        module: where its function is.
        command: its name.
        words: behind it.

    Returns:
        Whether that was all there is to do.

    Raises:
        Misunderstood: as in `llada.cli.preflight.check`, or as the command's own early module says.
    """
    function, title = command, command
    if command in SUBCOMMANDS:
        if not words or words[0] in HELP:
            print(_overview(module, command))
            return True
        function, *words = words
        if function not in SUBCOMMANDS[command]:
            raise Misunderstood(no_such("command", f"{command} {function}", _titles(command)))
        title = f"{command} {function}"
    try:
        signature = read(module, function, title)
    except LookupError:  # a command that isn't a function reads its words itself
        return False
    if set(HELP) & set(words):
        print(help_of(signature))
        return True
    check(signature, words)
    return command in EARLY and bool(import_module(EARLY[command]).answered(pairs(signature, words)))


def _titles(command: str) -> list[str]:
    return [f"{command} {name}" for name in SUBCOMMANDS[command]]


def _overview(module: str, command: str) -> str:
    width = max(map(len, SUBCOMMANDS[command]))
    lines = [f"  {name:<{width}}  {read(module, name, f'{command} {name}').summary}" for name in SUBCOMMANDS[command]]
    return "\n".join([f"usage: llada {command} {{{','.join(SUBCOMMANDS[command])}}} [OPTIONS]", "", *lines])
