"""What a command takes, read from the text of its function, so that help and refusals need none of its imports.

The function's arguments and docstring are the one owner of a command's options:

    list[str] | None        may be given several times
    bool = False            a flag without a value
    str, or a kind of file  without a default: may stand in front without its name; so may a Word, and the checkpoint
"""

import ast
import functools
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from llada.cli import shared
from llada.cli.commands import PLAIN

FILES = ("Checkpoint", "InputFile", "InputFolder", "NewPlace", "OutputFile", "OutputFolder")
PLACES = ("str", *FILES)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        name: without dashes.
        kind: the annotation, as written.
        help: what the docstring says.
        default: as written; None if the option must be given.
        repeatable: whether it may be given several times.
    """

    name: str
    kind: str
    help: str
    default: str | None = "None"
    repeatable: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value."""
        return (self.kind, self.default) == ("bool", "False")


@dataclass(frozen=True)
class Signature:
    """A command and its options.

    Args:
        command: such as "sample" or "tokenizer train".
        summary: first line of the docstring.
        own: the options of its function.
    """

    command: str
    summary: str
    own: tuple[Option, ...]

    @property
    def options(self) -> tuple[Option, ...]:
        """Its own options, and those that it shares with other commands."""
        names = [option.name for option in self.own]
        more = {name: text for place, group in shared.GROUPS.items() if place in names for name, text in group.items()}
        found = [option for option in self.own if option.name not in shared.GROUPS]
        always = {} if self.command in PLAIN else shared.ALWAYS
        found += [
            Option(name, shared.KINDS.get(name, "str | None"), text, repeatable=name in shared.REPEATABLE)
            for name, text in {**more, **always}.items()
        ]
        return tuple(found)

    @property
    def positional(self) -> tuple[Option, ...]:
        """The options whose values may stand in front without their names, in order."""
        return tuple(
            option
            for option in self.own
            if option.name == "checkpoint"
            or option.kind.removesuffix(" | None") == "Word"
            or (option.kind in PLACES and option.default is None)
        )

    def named(self, words: list[str]) -> list[str]:
        """The words of a command line with every value behind the name of its option.

        Args:
            words: such as ``["model.ckpt", "--seed", "1"]``.
        """
        found, rest = [], list(words)
        for option in self.positional:
            if not rest or (rest[0].startswith("-") and rest[0] != "-"):
                break
            found += [f"--{option.name}", rest.pop(0)]
        names = {option.name for option in self.own}
        ends = [*rest[1:], "--"]  # an option X beside a flag X_only may stand alone, and then means the flag
        alone = [
            f"{word}_only" if f"{word[2:]}_only" in names and behind.startswith("--") else word
            for word, behind in zip(rest, ends, strict=False)
        ]
        return [*found, *alone]


@functools.cache
def read(module: str, function: str, command: str) -> Signature:
    """The signature of a command.

    Args:
        module: where its function is; it isn't imported.
        function: its name.
        command: as the user calls it.

    Raises:
        LookupError: if the module has no such function.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function), None)
    if node is None:
        raise LookupError(f"{module}.{function}")
    text = ast.get_docstring(node) or ""
    said = _arguments(text)
    arguments = [*node.args.args, *node.args.kwonlyargs]
    defaults: list[ast.expr | None] = [None] * (len(node.args.args) - len(node.args.defaults))
    written = [
        None if value is None else ast.unparse(value)
        for value in (*defaults, *node.args.defaults, *node.args.kw_defaults)
    ]
    kinds = ["Any" if argument.annotation is None else ast.unparse(argument.annotation) for argument in arguments]
    own = tuple(
        Option(argument.arg, kind, said.get(argument.arg, ""), default, kind == "list[str] | None")
        for argument, kind, default in zip(arguments, kinds, written, strict=True)
    )
    return Signature(command, text.partition("\n")[0], own)


def _arguments(docstring: str) -> dict[str, str]:
    """The section "Args" of a docstring: name -> text, on one line."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in entries}
