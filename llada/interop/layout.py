"""A layout is how a family of released checkpoints spells what this library calls something else.

It maps the fields of ``config.json`` to the arguments of a backbone and the facts of a process, and the names of
tensors to ours, both ways. Nothing here runs foreign code; a field that isn't understood is refused unless it is empty.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llada.process import MaskingProcess

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


@dataclass(frozen=True)
class Described:
    """What a configuration says.

    Attributes:
        backbone: class of the network.
        arguments: for its constructor.
        process: mask token, schedule and conditioning.
    """

    backbone: type[nn.Module]
    arguments: dict[str, Any]
    process: MaskingProcess


class Layout(ABC):
    """One family of checkpoints."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How users name it."""

    @abstractmethod
    def matches(self, config: Config) -> bool:
        """Whether a ``config.json`` is of this family."""

    @abstractmethod
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        """Understand a configuration.

        Args:
            config: content of ``config.json``.
            mask_token_id: instead of the configuration's own.

        Raises:
            ValueError: naming a field that is missing or can't be served.
        """

    @abstractmethod
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        """The configuration of a model, with every field that the released ones have.

        Raises:
            ValueError: if this layout has no word for something that the model does.
        """

    @abstractmethod
    def ours(self, name: str) -> str | None:
        """Our name of a stored tensor; None for one that follows from the configuration and isn't loaded."""

    @abstractmethod
    def theirs(self, name: str) -> str:
        """The stored name of one of our parameters."""

    def derived(self, backbone: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Stored tensors that follow from the configuration, which the official code expects; none for most layouts."""
        return iter(())


def field(config: Config, name: str) -> Any:
    """A field that must be there.

    Raises:
        ValueError: if it isn't.
    """
    if name not in config:
        raise ValueError(f"config.json has no field {name!r}")
    return config[name]


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


def only_defaults(backbone: nn.Module, layout: str, **expected: Any) -> None:
    """Refuse to save what a layout has no word for.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in expected.items():
        if getattr(backbone, name) != value:
            raise ValueError(
                f"the {layout} layout can't say {name}={getattr(backbone, name)!r}, only {value!r}; "
                "keep the Lightning checkpoint, or choose another layout"
            )
