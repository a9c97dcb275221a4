"""What is wrong with the words of a command line, found before torch or Lightning is imported."""

from collections.abc import Iterator, Sequence

from llada.cli.boundary import Misunderstood
from llada.cli.kinds import check_kind
from llada.cli.nearest import no_such
from llada.cli.signature import Option, Signature

PARSERS_OWN = ("help", "print_config")
"""Options that the parser adds by itself."""
TRUTHS = ("true", "false", "yes", "no", "null")
LARGEST = 2**62
"""No whole number of an option is as large: tensors couldn't hold it, or twice as much."""
_NUMBERS: dict[str, tuple[type, str]] = {"int": (int, "a whole number"), "float": (float, "a number")}


def check(signature: Signature, words: Sequence[str]) -> None:
    """Look at names, values and files.

    Args:
        signature: of the command.
        words: of the command line, without the command.

    Raises:
        Misunderstood: if an option doesn't exist, lacks its value, or has one of another kind.
        FileNotFoundError: if a file that must be there isn't.
        ValueError: if a file that would be written is there.
    """
    options = {option.name: option for option in signature.options}
    given = pairs(signature, words)
    missing = [o.name for o in signature.options if o.default is None and o.name not in {name for name, _ in given}]
    asked = any(name.partition(".")[0] in (*PARSERS_OWN, "config") or ".help" in name for name, _ in given)
    if missing and not asked:
        named = " and ".join(f"--{name}" for name in missing)
        raise Misunderstood(f"{named} must be given; `llada {signature.command} --help` says more")
    valued = [(options[name], value) for name, value in given if value is not None and name in options]
    for option, value in valued:
        check_value(option, value)
    for option, value in valued:
        check_kind(option.kind, value)


def pairs(signature: Signature, words: Sequence[str]) -> list[tuple[str, str | None]]:
    """(option, value) of every option that is given, in order; None for flags and for the parser's own.

    Args:
        signature: of the command.
        words: of the command line.

    Raises:
        Misunderstood: if an option doesn't exist, or lacks its value.
    """
    options = {option.name: option for option in signature.options}
    return list(_pairs(signature, options, signature.named(list(words))))


def check_value(option: Option, value: str) -> None:
    """Look at the value of an option; exceptions as in `check`."""
    kind = option.kind.removesuffix(" | None")
    nothing = value == "null" and option.kind.endswith(" | None")
    if kind in _NUMBERS and not nothing:
        number, name = _NUMBERS[kind]
        try:
            parsed = number(value)
        except ValueError as error:
            raise Misunderstood(f"--{option.name} must be {name}; got {value!r}") from error
        if kind == "int" and abs(parsed) >= LARGEST:
            raise Misunderstood(f"--{option.name} must be less than 2^62; got {value}")
    if kind == "bool" and value.lower() not in TRUTHS:
        raise Misunderstood(f"--{option.name} must be true or false; got {value!r}")


def _pairs(signature: Signature, options: dict[str, Option], words: list[str]) -> Iterator[tuple[str, str | None]]:
    rest = iter(words)
    for word in rest:
        if word in ("-h", "--help"):
            yield "help", None
            continue
        if not word.startswith("--"):
            places = ", ".join(option.name.upper() for option in signature.positional)
            raise Misunderstood(f"{word!r} belongs to no option; {places or 'nothing'} may stand in front")
        name, equals, value = word[2:].partition("=")
        base = name.partition(".")[0].removesuffix("+")
        if base not in options and base not in PARSERS_OWN:
            raise Misunderstood(no_such("option", f"--{base}", [f"--{known}" for known in options]))
        if base in PARSERS_OWN or ".help" in name:
            yield name, None
        elif options[base].is_flag:
            if equals:
                raise Misunderstood(f"--{base} takes no value; got {value!r}")
            yield base, None
        else:
            value = value if equals else next(rest, "--")
            if not equals and value.startswith("--") and " " not in value:
                raise Misunderstood(f"--{name} needs a value")
            yield name, value
