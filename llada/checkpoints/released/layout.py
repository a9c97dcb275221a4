"""A layout is how a family of released checkpoints spells what this library calls something else.

It maps the fields of ``config.json`` to the arguments of a backbone and the facts of a process, and the names of
tensors to ours, both ways. Nothing here runs foreign code; a field that isn't understood is refused if it changes the
arithmetic, see `llada.checkpoints.released.arithmetic`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from llada.checkpoints.released.fields import Config
from llada.process import MaskingProcess, Process


@dataclass(frozen=True)
class Described:
    """What a configuration says.

    A mask token that is the first id behind the vocabulary, as in models adapted from a tokenizer without one, makes
    the vocabulary grow by a row.

    Args:
        backbone: class of the network.
        arguments: arguments of its constructor; ``vocab_size`` and ``num_layers`` are among them.
        process: mask token, schedule and conditioning.
        asked: arguments that the configuration doesn't tell and that nobody may guess, each with what to ask for.

    Raises:
        ValueError: if the mask token has no row in the embedding.
    """

    backbone: type[nn.Module]
    arguments: dict[str, Any]
    process: Process
    asked: Mapping[str, str] = field(default_factory=dict)
    grows: bool = field(init=False)
    """Whether the mask token's row may be missing in the files."""

    def __post_init__(self) -> None:
        rows, mask = self.arguments["vocab_size"], self.process.mask_token_id
        if mask is None:
            object.__setattr__(self, "grows", False)
            return
        if mask > rows:
            raise ValueError(
                f"mask_token_id={mask} has no row in the embedding, which has {rows}; choose an id below that, such as "
                f"one that the tokenizer reserves, or {rows} for a row of its own"
            )
        object.__setattr__(self, "grows", mask == rows)
        object.__setattr__(self, "arguments", {**self.arguments, "vocab_size": max(rows, mask + 1)})

    def told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments, some of them replaced by the caller's.

        Raises:
            ValueError: if one that must be told isn't.
        """
        for name, question in self.asked.items():
            if name not in options:
                raise ValueError(question)
        return {**self.arguments, **options}


class Layout(ABC):
    """One family of checkpoints.

    A family of one's own is a subclass; `llada.checkpoints.released.read_pretrained` takes it in ``layouts`` and
    `llada.checkpoints.released.write_pretrained` as ``layout``.
    """

    without_effect: ClassVar[frozenset[str]] = frozenset({"activation_checkpointing", "attention"})
    """Arguments of the backbone that choose how it computes, not what, so that no configuration has to tell them."""
    processes: ClassVar[tuple[type[Process], ...]] = (MaskingProcess,)
    """What its models were trained under."""

    @property
    def model_types(self) -> tuple[str, ...]:
        """What its configurations have as ``model_type``, in small letters."""
        return ()

    @property
    def telltale(self) -> str:
        """A field that all of its configurations have; families that share a ``model_type`` are told apart by it."""
        return ""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which `llada.checkpoints.released.write_pretrained` and error messages call the family."""

    def matches(self, config: Config) -> bool:
        """Whether a ``config.json`` is of this family."""
        return str(config.get("model_type")).lower() in self.model_types and self.telltale in config

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
    def write(self, backbone: nn.Module, process: Any) -> Config:
        """The configuration of a model, with every field that the released ones have.

        What `read` makes of it is compared with the model before anything is saved, so that an argument which the
        family has no field for is refused unless the model has its usual value.

        Args:
            backbone: the network.
            process: one of ``processes``.

        Raises:
            ValueError: if the backbone isn't of the family's class, or does what no field can say.
        """

    @abstractmethod
    def ours(self, name: str) -> str:
        """Our name of a stored tensor; one that isn't known comes back as it is."""

    def holds(self, name: str, backbone: nn.Module) -> tuple[str, ...]:
        """Our names of the parameters in a stored tensor: mostly one, or several that it holds one behind the other.

        They stand behind one another along the first dimension, or are stacked along a further one in front. `theirs`
        gives each of several that are to be written together the same name.

        Args:
            name: of the stored tensor.
            backbone: the network, for the number of its parts.
        """
        return (self.ours(name),)

    @abstractmethod
    def theirs(self, name: str) -> str:
        """The stored name of one of our parameters.

        Raises:
            ValueError: if there is none.
        """

    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """What a stored tensor must be that follows from the configuration; None for one that doesn't."""
        return None

    def constants(self, backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the tensors as in `constant` that a saved file must hold; none for most layouts."""
        return iter(())
