"""The reference of a preference loss: the model before it learnt preferences, read on the same noise as the model.

Three places where it may be: in the weights under low-rank additions, in a copy, or in a file of its values.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.objectives.objective import Batch
from llada.random import RowRandom

CHOSEN, REJECTED = range(2)
Bound = Callable[[Denoiser], Tensor]


class Reading(NamedTuple):
    """Which estimate of the reference is wanted.

    Attributes:
        batch: the pairs.
        draw: number of the noise draw.
        side: `CHOSEN` or `REJECTED`.
    """

    batch: Batch
    draw: int
    side: int


class Reference(ABC):
    """What the reference says of the answers."""

    @abstractmethod
    def __call__(self, model: Denoiser, bound: Bound, reading: Reading) -> Tensor:
        """The bound of the reference, (B, S) float64, without a gradient.

        Args:
            model: the model that is trained.
            bound: estimates the bound of a model, always on the same noise.
            reading: which answers and which draw these are.

        Raises:
            ValueError: if the reference isn't there.
        """

    def noise(self, random: RowRandom, batch: Batch) -> RowRandom:
        """The pairs' random streams, from which the noise of all draws comes.

        Args:
            random: of the training step.
            batch: the pairs.
        """
        return random


@dataclass(frozen=True)
class AdapterOff(Reference):
    """The same network with its low-rank additions switched off: no second copy (`llada.training.callbacks.LoRA`).

    Examples:
        >>> from llada.objectives import AdapterOff, PreferenceObjective
        >>> objective = PreferenceObjective(reference=AdapterOff())  # with the callback LoRA
    """

    @override
    def __call__(self, model: Denoiser, bound: Bound, reading: Reading) -> Tensor:
        with _switched_off(model), torch.no_grad():
            return bound(model)


@dataclass(frozen=True)
class FrozenCopy(Reference):
    """A copy of the network that isn't trained; it needs the memory of the weights once more.

    The callback `llada.training.callbacks.Preferences` makes it when training begins. In a loop of your own, call
    `hold`.

    Examples:
        >>> from torch import nn
        >>> from llada.objectives import FrozenCopy, PreferenceObjective
        >>> network = nn.Linear(2, 2)
        >>> reference = FrozenCopy()
        >>> copy = reference.hold(network)
        >>> copy.weight.requires_grad
        False
        >>> objective = PreferenceObjective(reference=reference)
    """

    _held: ClassVar[Any] = None

    def hold(self, network: nn.Module) -> nn.Module:
        """Copy a network as it is now, in place of what was held before.

        Args:
            network: backbone, or any other model that a loss takes.

        Returns:
            The copy, frozen and in evaluation mode.

        Raises:
            ValueError: if it has low-rank additions, which make a copy needless, or no storage yet.
        """
        if any(True for _ in _adapters(network)):
            raise ValueError("the network has low-rank additions; take reference=AdapterOff(), which needs no copy")
        if any(parameter.is_meta for parameter in network.parameters()):
            raise ValueError(
                "the network has no weights yet, as under strategies that split it; take AdapterOff() with LoRA, or "
                "StoredBounds(...)"
            )
        copy = deepcopy(network).requires_grad_(False).eval()
        object.__setattr__(self, "_held", copy)  # no argument: a configuration doesn't have it
        return copy

    def denoiser(self) -> Denoiser:
        """The network that is held.

        Raises:
            ValueError: if none is.
        """
        if self._held is None:
            raise ValueError(
                "reference=FrozenCopy() holds no network; add the callback llada.training.callbacks.Preferences "
                "(FrozenReference for distillation), or call hold(network) before training"
            )
        return as_denoiser(self._held)

    @override
    def __call__(self, model: Denoiser, bound: Bound, reading: Reading) -> Tensor:
        with torch.no_grad():
            return bound(self.denoiser())


@dataclass(frozen=True)
class StoredBounds(Reference):
    """Values that were computed beforehand and are looked up by pair and draw, so that no reference is in memory.

    The noise of a pair then follows from its number in the data (the batch's column ``row``) and the draw, and is the
    same in every epoch. The callback `llada.training.callbacks.Preferences` writes the file where it isn't there.

    Args:
        path: the file.
        seed: of the noise.

    Examples:
        >>> from llada.objectives import PreferenceObjective, StoredBounds
        >>> objective = PreferenceObjective(reference=StoredBounds("reference.npz"), draws=8)
    """

    path: str
    seed: int = 0

    _table: ClassVar[Tensor | None] = None

    @override
    def noise(self, random: RowRandom, batch: Batch) -> RowRandom:
        rows = self._rows(batch)
        own = RowRandom.for_step(self.seed, 0, rows, 1)
        return replace(own, rows=torch.zeros_like(rows))

    @override
    def __call__(self, model: Denoiser, bound: Bound, reading: Reading) -> Tensor:
        table = self.table()
        rows = self._rows(reading.batch).cpu()
        if reading.draw >= table.shape[1] or int(rows.max()) >= len(table):
            raise ValueError(
                f"{self.path} holds {table.shape[1]} draws of {len(table)} pairs, but draw {reading.draw} of pair "
                f"{int(rows.max())} is wanted; remove the file to have it made again"
            )
        return table[rows, reading.draw, reading.side][:, None].to(reading.batch["tokens"].device)

    def table(self) -> Tensor:
        """All values, (pairs, draws, 2) float64: chosen, rejected; nats.

        Raises:
            ValueError: if there is no such file, or it is something else.
        """
        if self._table is None:
            if not Path(self.path).is_file():
                raise ValueError(
                    f"there is no file {self.path} with values of the reference; the callback "
                    "llada.training.callbacks.Preferences writes it"
                )
            found = np.load(self.path, allow_pickle=False)
            if not isinstance(found, np.ndarray) or found.dtype != np.float64 or found.shape[2:] != (2,):
                raise ValueError(f"{self.path} holds no values of a reference, (pairs, draws, 2) float64")
            object.__setattr__(self, "_table", torch.from_numpy(found))
        assert self._table is not None
        return self._table

    def _rows(self, batch: Batch) -> Tensor:
        if batch.get("segment_ids") is not None or batch.get("row") is None:
            raise ValueError(
                "stored values are looked up by the batch's column 'row', (B,) int64, the number of the pair in the "
                "data, and rows must hold one pair each; take packing=None of PreferenceDataModule"
            )
        rows: Tensor = batch["row"]
        return rows.clamp(min=0)  # a row of -1 fills up a batch, and counts for nothing


def _adapters(network: Any) -> Iterator[Any]:
    """The layers of PEFT in a network."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return (module for module in modules if callable(getattr(module, "enable_adapters", None)))


@contextmanager
def _switched_off(model: Denoiser) -> Iterator[None]:
    network = getattr(model, "backbone", None) or getattr(model, "function", None)
    layers = list(_adapters(network))
    if not layers:
        raise ValueError(
            "reference=AdapterOff() needs low-rank additions to switch off; add the callback LoRA, or take "
            "reference=FrozenCopy()"
        )
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
