"""``llada COMMAND --help``, from the signature of the command alone."""

from textwrap import wrap

from llada.cli.signature import Option, Signature

WIDTH = 120
_WORDS = {
    "str": "TEXT",
    "int": "N",
    "float": "X",
    "bool": "true|false",
    "Checkpoint": "CHECKPOINT",
    "InputFile": "FILE",
    "InputFolder": "FOLDER",
    "NewPlace": "PLACE",
    "OutputFile": "FILE",
    "OutputFolder": "FOLDER",
}


def help_of(signature: Signature) -> str:
    """What ``--help`` prints.

    Args:
        signature: of the command.
    """
    front = signature.positional
    usage = "".join(f" {o.name.upper()}" if o.default is None else f" [{o.name.upper()}]" for o in front)
    rows = [(_left(option), _right(option)) for option in signature.options if option not in front]
    places = [(option.name.upper(), f"{_sentence(option)} Also --{option.name}.") for option in front]
    width = max(len(left) for left, _ in (*rows, *places))
    lines = [f"usage: llada {signature.command}{usage} [OPTIONS]", "", signature.summary, ""]
    lines += [line for row in places for line in _row(*row, width)]
    lines += ["", "options:"] if places else ["options:"]
    lines += [line for row in rows for line in _row(*row, width)]
    return "\n".join(lines)


def _left(option: Option) -> str:
    kind = option.kind.removesuffix(" | None")
    words = _WORDS.get(kind, "TEXT" if option.repeatable else "NAME")
    return f"--{option.name}" if option.is_flag else f"--{option.name} {words}"


def _right(option: Option) -> str:
    more = " Repeatable." if option.repeatable else ""
    plain = option.default not in (None, "None", "False", "''", "()") and "(" not in str(option.default)
    shown = f" (default: {option.default})" if plain and not str(option.default).isupper() else ""
    must = " (must be given)" if option.default is None else ""
    return f"{_sentence(option)}{more}{shown}{must}"


def _sentence(option: Option) -> str:
    return f"{option.help.removesuffix('.')}."


def _row(left: str, right: str, width: int) -> list[str]:
    lines = wrap(right, WIDTH - width - 4) or [""]
    return [f"  {left:<{width}}  {lines[0]}", *(" " * (width + 4) + line for line in lines[1:])]
