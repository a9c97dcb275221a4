"""Values of a parsed configuration that its parser lets through, and that no argument can have.

jsonargparse takes ``null`` for any argument, and whole numbers of any size. What came of them was an error deep inside
a class, or none at all.
"""

import math
import typing
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from llada.cli.boundary import Misunderstood
from llada.cli.catalogue import argument_defaults, argument_kinds
from llada.cli.preflight import LARGEST


def check_training(config: Namespace) -> None:
    """Look at all of a training's configuration.

    Args:
        config: of a subcommand, as it was parsed.

    Raises:
        Misunderstood: naming the place of a value that can't be.
    """
    from lightning.fabric.utilities.seed import max_seed_value, min_seed_value  # other commands do without Lightning

    for name, kind in (("model", "llada.module.DiffusionLM"), ("trainer", "lightning.pytorch.Trainer")):
        check_values(name, kind, vars(config[name]))
    check_value("data", config["data"])
    seed = config["seed_everything"]
    if not (seed is None or isinstance(seed, bool) or min_seed_value <= seed <= max_seed_value):
        raise Misunderstood(f"--seed_everything must be from {min_seed_value} to {max_seed_value}; got {seed}")


def check_values(place: str, path: str, arguments: Mapping[str, Any]) -> None:
    """Look at the arguments of a class, and at those of the parts among them.

    Args:
        place: where the class stands, such as "model.backbone".
        path: its class path.
        arguments: by their names, as they were parsed.

    Raises:
        Misunderstood: if an argument is null that can't be, isn't a number, or is too large for one.
    """
    kinds, known = argument_kinds(path), argument_defaults(path)
    for name, value in arguments.items():
        where = f"{place}.{name}"
        if value is None and name in known and not _may_be_nothing(kinds.get(name, Any)):  # the parser asks for others
            raise Misunderstood(f"{where} can't be null; leave it away for {known[name]!r}")
        check_value(where, value)


def check_value(where: str, value: Any) -> None:
    """Look at one value, whatever its type is; exceptions as in `check_values`."""
    if isinstance(value, float) and math.isnan(value):
        raise Misunderstood(f"{where} must be a number; got nan")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise Misunderstood(f"{where} must be less than 2^62; got {value}")
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            check_value(f"{where}.{index}", each)
    if isinstance(value, Namespace) and "class_path" in value:
        given = value.get("init_args")
        check_values(where, value["class_path"], {} if given is None else vars(given))


def _may_be_nothing(kind: Any) -> bool:
    if kind in (None, type(None), Any, object) or isinstance(kind, str | typing.TypeVar):
        return True
    return any(_may_be_nothing(part) for part in typing.get_args(kind) if not isinstance(part, list))
