"""From a typed function to a command: options by its signature, with the two kinds that suit a shell better.

An option that may be given several times (``--prompt "A" --prompt "B"``) takes its text as it stands, "[MASK:4]" and
"12" too; a flag takes no value. Options are spelt out in full: an abbreviation would soon mean another option.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from llada.checkpoints.known import trust
from llada.checkpoints.released.options import LOADING_OPTIONS, LoadOptions
from llada.samplers import PRESETS

LOADING = "loading"
"""The parameter of a command that gets the `LoadOptions`."""
TRUST = (
    "Installed package whose classes a checkpoint may name, and which is imported for it; nothing else is. Repeatable."
)


def name_positional(arguments: Sequence[str], *names: str) -> list[str]:
    """Give names to the arguments in front: ``model.ckpt --seed 1`` -> ``--checkpoint model.ckpt --seed 1``.

    Args:
        arguments: the words of the command line.
        names: the options whose values may stand in front without a name, in their order.
    """
    named: list[str] = []
    rest = list(arguments)
    for name in names:
        if not rest or rest[0].startswith("-"):
            break
        named += [f"--{name}", rest.pop(0)]
    return [*named, *rest]


def expand_sampler(arguments: Sequence[str]) -> list[str]:
    """Replace the short name of a preset by its class path, so that ``--sampler low_confidence`` is enough.

    Args:
        arguments: the words of the command line.
    """
    expanded = list(arguments)
    for index, argument in enumerate(arguments):
        name = argument.removeprefix("--sampler=")
        follows = index > 0 and arguments[index - 1] == "--sampler"
        if (follows or name != argument) and name in PRESETS:
            expanded[index] = argument.removesuffix(name) + f"llada.samplers.{name}"
    return expanded


def run(
    function: Callable[..., None],
    command: str,
    arguments: Sequence[str],
    *,
    repeatable: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> None:
    """Parse the options of a command, build the parts that they name, and run it.

    Args:
        function: the command; its docstring has one line for each option.
        command: its name.
        arguments: the words of the command line.
        repeatable: parameters of type ``list[str] | None``.
        flags: parameters of type bool that are False by default.
    """
    parser = ArgumentParser(prog=f"llada {command}", description=_summary(function), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with options.")
    names = inspect.signature(function).parameters
    parser.add_function_arguments(function, as_group=False, skip={*repeatable, *flags, LOADING})
    if LOADING in names:
        _add_loading(parser)
    for name in repeatable:
        parser.add_argument(f"--{name}", action="append", type=str, help=f"{_line(function, name)} Repeatable.")
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true", help=_line(function, name))
    parser.add_argument("--trust", action="append", type=str, help=TRUST)
    parsed = parser.parse_args(list(arguments))
    trust(*(parsed.pop("trust") or ()))
    built: Any = getattr(parser, "instantiate", parser.instantiate_classes)(parsed)
    loading = {LOADING: _loading(built)} if LOADING in names else {}
    function(**{name: built[name] for name in names if name not in loading}, **loading)


def _add_loading(parser: ArgumentParser) -> None:
    """The options of `LoadOptions`, which are the same for all commands that name a checkpoint."""
    for name, (repeatable, text) in LOADING_OPTIONS.items():
        if repeatable:
            parser.add_argument(f"--{name}", action="append", type=str, help=f"{text} Repeatable.")
        else:
            parser.add_argument(f"--{name}", type=str | None, default=None, help=text)


def _loading(built: Any) -> LoadOptions:
    return LoadOptions.of(**{name: built[name] for name in LOADING_OPTIONS})


def _line(function: Callable[..., None], name: str) -> str:
    """What the docstring says of a parameter."""
    found = re.search(rf"^\s+{name}: (.*)$", function.__doc__ or "", re.MULTILINE)
    assert found, f"{function.__qualname__} doesn't describe {name!r} in one line of its docstring"
    return found[1]


def run_one_of(functions: Sequence[Callable[..., None]], command: str, arguments: Sequence[str]) -> None:
    """As `run`, for a command whose first argument names one of several functions.

    Raises:
        ValueError: if there is no such function.
    """
    names = {function.__name__: function for function in functions}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: llada {command} {{{','.join(names)}}} [OPTIONS]\n")
        for name, function in names.items():
            print(f"  {name:<{max(map(len, names))}}  {_summary(function)}")
        return
    name, *rest = arguments
    if name not in names:
        raise ValueError(f"there is no {name!r}; choose from {', '.join(names)}")
    run(names[name], f"{command} {name}", rest)


def _summary(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").split("\n")[0]
