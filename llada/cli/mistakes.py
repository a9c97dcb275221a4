"""What jsonargparse says of a wrong option or configuration, as one sentence that names the cause.

Its account is a tree, indented: which key, which class was named there, which alternatives of the type were tried, and
what each of them said. The sentence is made from the one that says most: an argument that a class hasn't, a class that
a module hasn't, a value of another kind, in this order.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from typing_extensions import override

from llada.cli.boundary import Misunderstood
from llada.cli.catalogue import argument_kinds, arguments_of, choices
from llada.cli.nearest import no_such
from llada.cli.short_names import install

install()

_KEY = re.compile(r'Parser key "([^"]*)":\s*')
_CLASS = re.compile(r"Problem with given class_path '([^']*)':\s*")
_CALLABLE = re.compile(r"Type .*? expects a function or a callable class: ")
_OF_CLASS = re.compile(r"Namespace\(class_path='([^']*)'")
_SKIPPED = ("Does not validate against", "Subtypes:", "Errors:", "Given value", "Subclass types expect", "a class")
_UNTOLD = object()
_NAMES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'dict'>": "a mapping",
    "<class 'list'>": "a list",
    "<class 'NoneType'>": "null",
}


@dataclass(frozen=True)
class Leaf:
    """One thing that was said.

    Args:
        keys: where.
        classes: those that were named on the way.
        text: what.
    """

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    text: str

    @property
    def key(self) -> str:
        """The place in a configuration."""
        return ".".join(self.keys)


def leaves(message: str) -> Iterator[Leaf]:
    """The ends of the tree.

    Args:
        message: as jsonargparse writes it.
    """
    stack: list[tuple[int, str, str]] = []
    for line in message.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text or text.lstrip("- ").startswith(_SKIPPED):
            continue
        while stack and stack[-1][0] >= indent:
            stack.pop()
        text = _CALLABLE.sub("", text.lstrip("- "))
        while found := _KEY.match(text) or _CLASS.match(text):
            stack.append((indent, "key" if found.re is _KEY else "class", found[1]))
            text = text[found.end() :]
        if text:
            keys = tuple(name for _, kind, name in stack if kind == "key")
            classes = tuple(name for _, kind, name in stack if kind == "class")
            yield Leaf(keys, (*classes, *_OF_CLASS.findall(text)), text)


class OneSentence(ArgumentParser):
    """A parser whose refusals are one sentence, without the usage."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser inside another one, for the arguments of a class
            super().error(message, ex)
        raise Misunderstood(Mistakes(getattr(ex, "subcommand_parser", None) or self).sentence(message)) from ex


class Mistakes:
    """Turns accounts of a parser into sentences.

    Args:
        parser: whose options are meant.
    """

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        # In which parser it is: that of the subcommand, which begins every name.
        self.types = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}

    def sentence(self, message: str) -> str:
        """The one sentence.

        Args:
            message: what the parser has said.
        """
        plain = self._plain(message)
        if plain:
            return plain
        said = list(leaves(message))
        # A type that is a union says once for every alternative what is wrong; the deepest knows most.
        for kind in (_no_argument, self._no_class, _no_subclass, self._no_name, _no_mapping):
            for leaf in sorted(said, key=lambda leaf: -len(leaf.keys)):
                if found := kind(leaf, message):
                    return found
        found = self._other_kind(said, message) or _short(message)
        place, colon, rest = found.partition(":")
        return found if rest.strip() or not colon else f"{place} has nothing in it; write it out, or leave its key away"

    def _plain(self, message: str) -> str:
        """Of accounts in one line."""
        patterns: list[tuple[str, Callable[[re.Match[str]], str]]] = [
            (r"(?i)unrecognized arguments: (.*)", lambda m: self._unknown(m[1].split()[0])),
            (r"Subcommand '\w+' does not accept option '([^']*)'", lambda m: self._unknown(f"--{m[1]}")),
            (r"\A\s*Option '([^']*)' is not accepted", lambda m: self._unknown(f"--{m[1]}")),
            (r"argument (?:-c/)?(\S+): expected one argument", lambda m: f"{m[1]} needs a value"),
            (r"argument (\S+): ignored explicit argument (.*)", lambda m: f"{m[1]} takes no value; got {m[2]}"),
            (r"the following arguments are required: (.*)", lambda m: _required(m[1], message)),
            (r"Problems parsing config: .*line (\d+), column \d+\n(.*)", lambda m: _yaml(m)),
            (r"File does not exist: '(.*)'", lambda m: f"there is no file {m[1]}"),
        ]
        for pattern, made in patterns:
            if found := re.search(pattern, message, re.DOTALL if pattern.startswith("Problems") else 0):
                return made(found)
        return ""

    def _unknown(self, word: str) -> str:
        """The first part of a dotted name that doesn't exist."""
        if not word.startswith("--"):
            return f"{word!r} belongs to no option"
        names = word[2:].partition("=")[0].split(".")
        known = {name for name in self.types if name != "help"}
        for depth in range(len(names)):
            start = ".".join(names[:depth])
            here = [name.removeprefix(f"{start}.") for name in known if not start or name.startswith(f"{start}.")]
            heads = sorted({name.partition(".")[0] for name in here if name})
            if names[depth].removesuffix("+") not in heads:
                prefix = f"--{start}." if start else "--"
                return no_such("option", prefix + names[depth], [prefix + head for head in heads])
        return f"there is no option {word}"

    def _no_class(self, leaf: Leaf, message: str) -> str:
        found = re.search(r"module '([^']*)' has no attribute '([^']*)'|No module named '([^']*)'", leaf.text)
        if not found or not leaf.classes:
            return ""
        path = leaf.classes[-1]
        return self._nearest_class(leaf, path)

    def _no_name(self, leaf: Leaf, message: str) -> str:
        found = re.search(r"Expected a dot import path string: ?(.*)", leaf.text)
        return self._nearest_class(leaf, found[1]) if found else ""

    def _nearest_class(self, leaf: Leaf, written: str) -> str:
        kind = self._type_of(leaf)
        known = choices(kind) if kind is not None or "." in written else []
        if not known:
            return ""
        name = written.rpartition(".")[2]
        return _at(leaf, no_such("class or preset", name, known).replace(repr(name), repr(written), 1))

    def _type_of(self, leaf: Leaf) -> Any:
        """The type that a key asks for: of the parser's option, or of the argument of the class around it."""
        if len(leaf.keys) > 1 and len(leaf.classes) >= len(leaf.keys) - 1:
            return argument_kinds(leaf.classes[len(leaf.keys) - 2]).get(leaf.keys[-1])
        return self.types.get(leaf.key)

    def _other_kind(self, said: list[Leaf], message: str) -> str:
        """A value of another kind, and the kinds that would be right."""
        wanted = [leaf for leaf in said if leaf.text.startswith("Expected ")]
        if not wanted:
            return ""
        deepest = max(len(leaf.keys) for leaf in wanted)
        wanted = [leaf for leaf in wanted if len(leaf.keys) == deepest and "a path but" not in leaf.text]
        wanted = [leaf for leaf in wanted if "a dot import path" not in leaf.text] or wanted
        if not wanted:
            return ""
        got = re.search(r"Got value: (.*?)(?:\. Got value.*)?$", wanted[0].text, re.DOTALL)
        given = re.findall(r"Given value: (.*)", message)
        value = got[1] if got else _nested(given[-1].partition(". Got value:")[0] if given else "")
        kinds = [_kind(re.sub(r"\. Got value:.*", "", leaf.text, flags=re.DOTALL)) for leaf in wanted]
        options = [option for kind in kinds for option in kind]
        if set(options) == {"null"} and (known := choices(self._type_of(wanted[0]))):
            return _at(wanted[0], no_such("class or preset", value, known))
        return f"{wanted[0].key} must be {' or '.join(dict.fromkeys(options))}; got {_cut(value)!r}"


def _no_argument(leaf: Leaf, message: str) -> str:
    found = re.search(r"Option '([^']*)' is not accepted", leaf.text)
    if not found or not leaf.classes:
        return ""
    owner, name = leaf.classes[-1], found[1]
    if not set(arguments_of(owner)) - {"args", "kwargs"}:  # of a base class, since none was named
        return _unnamed(leaf, owner.rpartition(".")[2], message)
    return _at(leaf, no_such("argument", name.partition(".")[0], arguments_of(owner), f"of {owner}"))


def _no_subclass(leaf: Leaf, message: str) -> str:
    found = re.search(r"Import path (\S+) does not correspond to a subclass of (\S+)", leaf.text)
    if found:
        return _at(leaf, f"{found[1]} is no {found[2]}")
    several = re.search(r"Multiple subclasses with name (\S+)\. .* ambiguity: (.*)\.", leaf.text)
    return _at(leaf, f"several classes are called {several[1]}; write one of {several[2]}") if several else ""


def _no_mapping(leaf: Leaf, message: str) -> str:
    """A mapping that names no class, or what is no mapping."""
    found = re.search(r"Not a valid subclass of (\w+)|instantiatable class, but (?:\w+\.)*(\w+) is abstract", leaf.text)
    if not found:
        return ""
    return _unnamed(leaf, found[1] or found[2], message)


def _unnamed(leaf: Leaf, kind: str, message: str) -> str:
    value = _given(leaf, message)
    wrong = [str(key) for key in value if key not in ("class_path", "init_args")] if isinstance(value, dict) else []
    if wrong and "init_args" in value:
        return _at(leaf, no_such("key", wrong[0], ("class_path", "init_args")))
    got = "" if value is _UNTOLD else f"; got {_cut(repr(value))}"
    return _at(leaf, f"this must name a class, {kind}, by class_path{got}")


def _given(leaf: Leaf, message: str) -> Any:
    """What was given at the place of a leaf, as far as that is told."""
    told = re.search(r"Got value: (.*)", leaf.text)
    given = re.findall(r"Given value: (.*)", message)
    if not told and not given:
        return _UNTOLD
    text = told[1] if told else given[-1]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return _nested(text)
    for key in () if told else leaf.keys[1:]:
        value = value.get("init_args", {}).get(key) if isinstance(value, dict) else value
    return value


def _at(leaf: Leaf, sentence: str) -> str:
    return f"{leaf.key}: {sentence}" if leaf.keys else sentence


def _kind(text: str) -> list[str]:
    """``Expected a <class 'int'>`` -> ``["a whole number"]``."""
    wanted = re.sub(r"^Expected an? ", "", text).strip()
    if wanted.startswith("typing.Literal["):
        return [str(value) for value in ast.literal_eval(wanted.removeprefix("typing.Literal"))]
    return [_NAMES.get(wanted, wanted.replace("typing.", "").replace("collections.abc.", ""))]


def _nested(given: str) -> str:
    found = re.search(r"NestedArg\(key='[^']*', val='?(.*?)'?\)$", given)
    return found[1] if found else given


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _required(names: str, message: str) -> str:
    place = next((f"{leaf.key}." for leaf in leaves(message) if leaf.keys and leaf.text.endswith(names)), "")
    listed = [f"--{place}{re.sub(r'^(fit|validate|test|predict)[.]', '', name)}" for name in names.split(", ")]
    return f"{' and '.join(listed)} must be given, here or in the file of --config"


def _yaml(found: re.Match[str]) -> str:
    lines = [line.strip() for line in found[0].splitlines()]
    where = re.findall(r"line (\d+)", found[0])
    reasons = [line for line in lines[1:] if line and not line.startswith("in ")]
    return f"the configuration is no YAML: line {where[-1]}: {reasons[0] if reasons else 'it ends too early'}"


def _short(message: str) -> str:
    """What is left: the last thing that was said."""
    said = list(leaves(message))
    last = said[-1] if said else Leaf((), (), message)
    return _at(last, _cut(" ".join(last.text.split())))
