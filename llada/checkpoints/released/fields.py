"""The fields of a ``config.json``: each has a type and a range, and what isn't understood is refused by name."""

import math
from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

GENERIC = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "mask_token_id",
        "model_type",
        "pad_token_id",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Fields of any Hugging Face configuration that don't change what the network computes."""


def field(config: Config, name: str) -> Any:
    """A field that must be there.

    Raises:
        ValueError: if it isn't.
    """
    if name not in config:
        raise ValueError(f"config.json has no field {name!r}")
    return config[name]


def whole(config: Config, name: str, default: int | None = None) -> int:
    """A whole number, 1 or more.

    Args:
        config: content of ``config.json``.
        name: name of the field.
        default: value that an absent field or a null stands for; None if the field must be there.

    Raises:
        ValueError: naming the field, if it is missing or something else.
    """
    value = _present(config, name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json has {name}={value!r}, but it must be a whole number, 1 or more")
    return value


def number(config: Config, name: str, default: float | None = None, *, zero: bool = False) -> float:
    """A positive number, or with ``zero`` one that may be 0; arguments and errors as in `whole`."""
    value = _present(config, name, default)
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        range_ = "0 or more" if zero else "above 0"
        raise ValueError(f"config.json has {name}={value!r}, but it must be a finite number, {range_}")
    return float(value)


def flag(config: Config, name: str, default: bool | None = None) -> bool:
    """True or false; arguments and errors as in `whole`."""
    value = _present(config, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"config.json has {name}={value!r}, but it must be true or false")
    return value


def _present(config: Config, name: str, default: Any) -> Any:
    value = field(config, name) if default is None else config.get(name)
    return default if value is None else value


def refuse_others(config: Config, used: set[str], served: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what isn't understood.

    Args:
        config: content of ``config.json``.
        used: fields that are read elsewhere.
        served: other known fields, and the values that this library can serve.

    Raises:
        ValueError: naming the field, its value and what can be served.
    """
    for name, value in config.items():
        if name in served and value not in served[name]:
            options = " or ".join(map(repr, served[name]))
            raise ValueError(f"config.json has {name}={value!r}, but only {options} can be loaded")
        known = name in used or name in served or name in GENERIC
        if not known and value not in (None, False, 0, "", [], {}):
            raise ValueError(f"config.json has the field {name}={value!r}, which isn't understood; refusing to guess")


def mask_id(config: Config, given: int | None) -> int:
    """The mask token, given or stored.

    Raises:
        ValueError: if there is none.
    """
    found = config.get("mask_token_id") if given is None else given
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(
            "config.json names no mask_token_id; give one with mask_token_id=, such as an id that the tokenizer "
            "reserves"
        )
    return found
