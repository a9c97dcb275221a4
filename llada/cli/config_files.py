"""Configuration files, looked at before they are parsed: an error of YAML alone doesn't say in which file it is."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml


def check_config_files(arguments: Sequence[str]) -> None:
    """Refuse a file of ``--config`` that can't be read as YAML.

    Args:
        arguments: of a command. Files that aren't there, and other arguments, are left to the parser.

    Raises:
        ValueError: naming the file, and the place in it.
    """
    for name in _named(arguments):
        path = Path(name)
        if not path.is_file():
            continue
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _named(arguments: Sequence[str]) -> Iterator[str]:
    for index, argument in enumerate(arguments):
        option, given, value = argument.partition("=")
        if option in ("--config", "-c"):
            yield value if given else next(iter(arguments[index + 1 : index + 2]), "")
