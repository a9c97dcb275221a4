"""A layout is how a family of released checkpoints spells what this library calls something else.

It maps the fields of ``config.json`` to the arguments of a backbone and the facts of a process, and the names of
tensors to ours, both ways. Nothing here runs foreign code; a field that isn't understood is refused unless it is empty.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from llada.checkpoints.released.fields import Config
from llada.process import MaskingProcess


@dataclass(frozen=True)
class Described:
    """What a configuration says.

    Args:
        backbone: class of the network.
        arguments: arguments of its constructor; ``vocab_size`` and ``num_layers`` are among them.
        process: mask token, schedule and conditioning.

    Raises:
        ValueError: if the mask token has no row in the embedding.
    """

    backbone: type[nn.Module]
    arguments: dict[str, Any]
    process: MaskingProcess

    def __post_init__(self) -> None:
        rows, mask = self.arguments["vocab_size"], self.process.mask_token_id
        if mask >= rows:
            raise ValueError(
                f"mask_token_id={mask} has no row in the embedding, which has {rows}; choose an id below that, such as "
                "one that the tokenizer reserves"
            )


class Layout(ABC):
    """One family of checkpoints.

    A family of one's own is a subclass; `llada.checkpoints.released.read_pretrained` takes it in ``layouts`` and
    `llada.checkpoints.released.write_pretrained` as ``layout``.
    """

    without_effect: ClassVar[frozenset[str]] = frozenset({"activation_checkpointing", "attention"})
    """Arguments of the backbone that choose how it computes, not what, so that no configuration has to tell them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which `llada.checkpoints.released.write_pretrained` and error messages call the family."""

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

        What `read` makes of it is compared with the model before anything is saved, so that an argument which the
        family has no field for is refused unless the model has its usual value.

        Raises:
            ValueError: if the backbone isn't of the family's class, or does what no field can say.
        """

    @abstractmethod
    def ours(self, name: str) -> str:
        """Our name of a stored tensor; one that isn't known comes back as it is."""

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
