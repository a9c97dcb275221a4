"""Cached decoding: which keys and values of a canvas are kept between steps, and when they are computed again.

A policy opens a cache on a canvas: a `Denoiser` that computes a part of it against stored keys and values of the rest.
The loop that asks it for logits can't tell. Bidirectional models change all keys when a token is written, so a cache is
an approximation for them, until the next refresh; it is exact for block-causal models.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor
from typing_extensions import override

from llada.denoiser import BackboneDenoiser, Denoiser
from llada.process.columns import Edit
from llada.samplers.part import Part


@runtime_checkable
class CachingBackbone(Protocol):
    """A network that can run on a region of a canvas; see `llada.backbones.cache`."""

    def hidden(self, tokens: Tensor, *, select: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """(B, Q) int64 -> (N, D), with the keywords ``cache`` and ``region``."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        ...

    def new_cache(self, batch_size: int, length: int) -> Any:
        """Buffers for a canvas."""
        ...


class OpenCache(Denoiser):
    """A policy at work on one canvas; owns the buffers."""

    def begin_rows(self, begins: Sequence[int]) -> None:
        """Told once, before the first window, where each input would begin it if it were alone.

        Args:
            begins: R columns. Another row's gap may have widened the batch's first windows to the left of them.
        """
        return

    @abstractmethod
    def begin_window(self, start: int, stop: int) -> None:
        """Columns start to stop are decoded next; all open columns to the left of them have been written."""

    def begin_windows(self, starts: Sequence[int], stops: Sequence[int], begun: Sequence[bool]) -> None:
        """Told before each call, instead of `begin_window`, where rows go on to their next windows one by one.

        Args:
            starts: R columns, where the window of each input begins.
            stops: the columns behind their ends.
            begun: R answers, whether it is opened now.

        Raises:
            ValueError: if the policy isn't `CachePolicy.ragged`.
        """
        raise ValueError(f"{type(self).__name__} wants all rows to be in one window")

    def move(self, edit: Edit) -> None:
        """Told when columns have come or gone, before the next window or call.

        What is kept of the columns to the left of a row's first edit stays; all behind it is computed again.

        Args:
            edit: of the R inputs.

        Raises:
            ValueError: if it can't follow.
        """
        raise ValueError(f"{type(self).__name__} can't follow a canvas whose columns move; use NoCache()")

    def begin_step(self, still_open: Tensor, most: int) -> None:
        """Told before each step which positions are open.

        Args:
            still_open: (B, L) bool.
            most: open positions in the columns up to the window's end, in the row that has the most of them.
        """
        return

    def begin_call(self, asking: Tensor) -> None:
        """Told before a call which rows need it. Not told where every row that has open positions needs every call.

        Args:
            asking: (B,) bool. The others write nothing in this step, and alone they wouldn't have asked.
        """
        return


class CachePolicy(Part, ABC):
    """What is kept, and when it is refreshed."""

    guided: ClassVar[bool] = True
    """Whether it works under guidance, whose second input has a masked prompt."""
    editable: ClassVar[bool] = True
    """Whether written tokens of the open window may be replaced."""
    windowed: ClassVar[bool] = True
    """Whether it must be told when a window begins."""
    counts_columns: ClassVar[bool] = False
    """Whether columns behind a row's last token change what it computes."""
    everywhere: ClassVar[bool] = True
    """Whether it has an answer at all open positions, rather than at those of the window alone."""
    ragged: ClassVar[bool] = False
    """Whether each row may be in a window of its own."""
    computes_the_end: ClassVar[bool] = False
    """Whether everything behind the window is computed in each call, so that its logits may be asked for."""

    @property
    def memoryless(self) -> bool:
        """Whether an answer depends on the canvas now and at the opening of the window, and on no step in between."""
        return False

    @abstractmethod
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        """Begin a canvas.

        Args:
            denoiser: the model.
            first: (R,) int64, the first open column of each of the R inputs of a model call; the last column where
                nothing is open. Under guidance both inputs of a row have the same.
            length: L, columns of the canvas.
            model_kwargs: what the model will be called with.

        Raises:
            ValueError: if the model can't be cached.
        """

    @override
    def check(self, sampler: Any) -> None:
        if sampler.guidance.branches > 1 and not self.guided:
            raise ValueError(
                f"{type(self).__name__} takes the masked prompt of the unconditional input for masks to decode; "
                "use DualCache() or NoCache() with guidance"
            )


class Plain(OpenCache):
    """Keeps nothing.

    Args:
        denoiser: the model.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    @override
    def begin_window(self, start: int, stop: int) -> None:
        return

    @override
    def begin_windows(self, starts: Sequence[int], stops: Sequence[int], begun: Sequence[bool]) -> None:
        return

    @override
    def move(self, edit: Edit) -> None:
        return

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        return self.denoiser.logits(tokens, where, **model_kwargs)


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """The whole canvas in every step.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, NoCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=NoCache())
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    windowed: ClassVar[bool] = False
    ragged: ClassVar[bool] = True
    computes_the_end: ClassVar[bool] = True

    @property
    @override
    def memoryless(self) -> bool:
        return True

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        return Plain(denoiser)


def caching_backbone(denoiser: Denoiser) -> CachingBackbone:
    """The network behind a denoiser.

    Raises:
        ValueError: if it can't keep keys and values.
    """
    if isinstance(denoiser, BackboneDenoiser) and isinstance(denoiser.backbone, CachingBackbone):
        return denoiser.backbone
    model = type(denoiser.backbone if isinstance(denoiser, BackboneDenoiser) else denoiser).__name__
    raise ValueError(
        f"{model} has no new_cache(rows, length), so its keys and values can't be kept; "
        "decode it with cache=NoCache(), or use a backbone such as llada.backbones.BidirectionalTransformer"
    )
