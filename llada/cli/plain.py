"""Runs a command whose options are text, numbers and flags, without a parser of configurations."""

from collections.abc import Callable, Sequence
from typing import Any

from llada.cli.preflight import pairs
from llada.cli.signature import read

_NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float}


def run_plain(function: Callable[..., None], command: str, words: Sequence[str]) -> None:
    """Run a command.

    Args:
        function: the command.
        command: its name.
        words: of the command line, which `llada.cli.preflight.check` has looked at.
    """
    signature = read(function.__module__, function.__name__, command)
    options = {option.name: option for option in signature.options}
    given: dict[str, Any] = {}
    for name, value in pairs(signature, words):
        option = options[name]
        number = _NUMBERS.get(option.kind.removesuffix(" | None"), str)
        found = True if value is None else number(value)
        given[name] = [*given.get(name, []), found] if option.repeatable else found
    function(**given)
