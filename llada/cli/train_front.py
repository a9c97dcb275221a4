"""What is wrong with a training's words and configuration files, found before torch and Lightning are imported.

The first word of every option and key is looked at, and the files. What stands deeper is the parser's to refuse, which
knows the classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from llada.cli.boundary import Misunderstood
from llada.cli.config import configurations
from llada.cli.nearest import no_such
from llada.cli.train_options import help_text, names

HELP_ALL = "--help_all"
_GROUPS = ("model", "trainer")
"""Keys whose value is a mapping, or the name of a file with one."""
_KEYS = ("class_path", "init_args", "dict_kwargs")
"""What a mapping may say that is built by its class."""
_NAMES_OF_CHECKPOINTS = ("last", "best", "hpc", "registry")


def answered(module: str, command: str, words: list[str]) -> bool:
    """Look at the words of a command.

    Args:
        module: where it is.
        command: such as "fit".
        words: behind it.

    Returns:
        Whether that was all there is to do.

    Raises:
        Misunderstood: if an option or key doesn't exist, or a file is missing or no YAML.
        FileNotFoundError: if a checkpoint is missing.
    """
    if {"-h", "--help"} & set(words):
        print(help_text(command))
        return True
    if command == "check" and words and not words[0].startswith("-"):
        words = ["--config", *words]
    if HELP_ALL in words or "--print_config" in {word.partition("=")[0] for word in words}:
        return False
    given = dict(_pairs(command, words))
    configured = [_configuration(command, path) for path in _files(words)]
    if not configured and "data" not in given:
        raise Misunderstood(f"give a configuration: llada {command} --config mine.yaml (`llada config` lists some)")
    for name in ("ckpt_path", "init_from"):
        values = [given.get(name), *(configuration.get(name) for configuration in reversed(configured))]
        path = next((value for value in values if value is not None), None)
        if isinstance(path, str) and not _is_there(path):
            raise FileNotFoundError(f"there is no checkpoint {path}")
    return False


def _is_there(path: str) -> bool:
    return path in ("null", "") or "://" in path or path.startswith(_NAMES_OF_CHECKPOINTS) or Path(path).exists()


def _pairs(command: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    known = {*names(command), "config", "c"}
    for word, behind in zip(words, [*words[1:], ""], strict=False):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        base = name.partition(".")[0].removesuffix("+")
        if base not in known:
            listed = [f"--{each}" for each in (*names(command), "config")]
            raise Misunderstood(no_such("option", f"--{base}", listed))
        value = value if equals else behind
        if name.endswith(".class_path") and not all(part.isidentifier() for part in value.split(".")):
            raise Misunderstood(f"--{name} must be the name of a class; got {value!r:.80}")
        yield name, value


def _files(words: Sequence[str]) -> Iterator[str]:
    for word, behind in zip(words, [*words[1:], ""], strict=False):
        if word in ("--config", "-c"):
            if not behind or behind.startswith("--"):
                raise Misunderstood(f"{word} needs a value: a YAML file")
            yield behind
        elif word.startswith("--config="):
            yield word.removeprefix("--config=")


def _configuration(command: str, path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise Misunderstood(f"there is no file {path}; {_where_from(path)}")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark is not None else ""
        raise Misunderstood(f"{path}:{where} this is no YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise Misunderstood(f"{path} is not UTF-8 text: {error.reason}; convert it to UTF-8") from error
    if not isinstance(content, dict):
        raise Misunderstood(f"{path}: a configuration is a mapping of {', '.join(names(command))}")
    _check_places(path, command, content)
    return content


def _where_from(path: str) -> str:
    """How a configuration is had; those that come with llada name each other by their places in its repository."""
    name = path.removeprefix("./").removeprefix("examples/configs/").removesuffix(".yaml")
    if name in configurations():
        return f"`llada config {name} > {Path(name).name}.yaml` writes the one that comes with llada"
    return "`llada config` lists the configurations that come with llada"


def _check_places(path: str, command: str, content: dict[str, Any]) -> None:
    """Whether every key is known that stands at the top, or beside a ``class_path``."""
    for key in content:
        if str(key) not in names(command):
            raise Misunderstood(f"{path}: {no_such('key', str(key), names(command))}")
    for key in _GROUPS:
        if not isinstance(content.get(key), dict | None) and not Path(str(content[key])).is_file():
            raise Misunderstood(f"{path}: {key} must be a mapping of its options; got {_shown(content[key])}")
    for place, part in _parts(content):
        named, arguments = part["class_path"], part.get("init_args")
        if not isinstance(named, str) or not named:
            raise Misunderstood(f"{path}: {place}.class_path must be the name of a class; got {_shown(named)}")
        others = [str(name) for name in part if name not in _KEYS]
        if others:
            raise Misunderstood(f"{path}: {place}: {no_such('key', others[0], _KEYS)}")
        if not isinstance(arguments, dict | None):
            raise Misunderstood(f"{path}: {place}.init_args must be a mapping of arguments; got {_shown(arguments)}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.80}"


def _parts(value: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and mapping of everything in a configuration that is built by its class."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
        if "class_path" in value:
            yield place, value
    elif isinstance(value, list):
        items = enumerate(value)
    for name, each in items:
        yield from _parts(each, f"{place}.{name}" if place else str(name))
