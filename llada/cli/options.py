"""From a typed function to a command: options by its signature, with the two kinds that suit a shell better.

An option that may be given several times (``--prompt "A" --prompt "B"``) takes its text as it stands, "[MASK:4]" and
"12" too; a flag takes no value. Options are spelt out in full: an abbreviation would soon mean another option.
`llada.cli.signature` says which options are of which kind.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from llada.checkpoints.known import trust
from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import NAMES, SamplerChanges, into_preset
from llada.cli.kinds import check_kind
from llada.cli.mistakes import OneSentence
from llada.cli.shared import CHANGES, GROUPS, LOADING
from llada.cli.signature import Signature, read
from llada.cli.values import check_value


def run(function: Callable[..., None], command: str, arguments: Sequence[str]) -> None:
    """Parse the options of a command, build the parts that they name, and run it.

    Args:
        function: the command; its docstring has one entry for each option.
        command: its name.
        arguments: the words of the command line.

    Raises:
        Misunderstood: if they aren't understood.
    """
    signature = read(function.__module__, function.__name__, command)
    words = signature.named(list(arguments))
    if CHANGES in inspect.signature(function).parameters:
        words = into_preset(words)
    parser = _parser(function, signature)
    parsed = parser.parse_args(words)
    trust(*(parsed.pop("trust") or ()))
    for option in signature.own:
        if isinstance(parsed.get(option.name), str):
            check_kind(option.kind, parsed[option.name])
    for name, value in vars(parsed).items():
        check_value(name, value)
    built: Any = parser.instantiate(parsed)
    made = {LOADING: _loading, CHANGES: _changes}
    names = inspect.signature(function).parameters
    function(**{name: made[name](built) if name in made else built[name] for name in names})


def _parser(function: Callable[..., None], signature: Signature) -> ArgumentParser:
    parser = OneSentence(prog=f"llada {signature.command}", description=signature.summary, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with options.")
    names = {option.name: option for option in signature.own}
    apart: set[str | int] = {name for name, option in names.items() if option.repeatable or option.is_flag}
    groups: set[str | int] = {name for name in names if name in GROUPS}
    parser.add_function_arguments(function, as_group=False, skip=apart | groups)
    for option in signature.options:
        if option.name == "config" or option.name in set(names) - apart:
            continue
        if option.is_flag:
            parser.add_argument(f"--{option.name}", action="store_true", help=option.help)
        elif option.repeatable:
            parser.add_argument(f"--{option.name}", action="append", type=str, help=option.help)
        else:
            kind = _KINDS[option.kind]
            parser.add_argument(f"--{option.name}", type=kind, default=None, help=option.help)
    return parser


_KINDS: dict[str, Any] = {"str | None": str | None, "int | None": int | None, "float | None": float | None}


def _changes(built: Any) -> SamplerChanges:
    return SamplerChanges(**{name: built[name] for name in NAMES})


def _loading(built: Any) -> LoadOptions:
    return LoadOptions.of(**{name: built[name] for name in GROUPS[LOADING]})
