"""Cached decoding: which keys and values of a canvas are kept between steps, and when they are computed again.

A policy opens a view of each window: a `Denoiser` that computes a part of the canvas against stored keys and values of
the rest. The loop that asks it for logits can't tell. Bidirectional models change all keys when a token is written, so
a cache is an approximation for them, until the next refresh; it is exact for block-causal models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from llada.denoiser import BackboneDenoiser, Denoiser
from llada.samplers.window import Window


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


class Shape(NamedTuple):
    """Of the canvas that a cache serves.

    Attributes:
        rows: inputs of a model call, twice the batch under guidance.
        length: columns, L.
        first: (rows,) int64, column of the first mask; the last column where there is none. Under guidance both inputs
            of a row have that of the conditional one.
    """

    rows: int
    length: int
    first: Tensor


class View(Denoiser):
    """What a policy opens on one window. Sampling asks it for logits only."""

    def begin_step(self, masks_left: int) -> None:
        """Told before each step how many masks the fullest row has left in the window, if the sampler counts them."""
        return


class OpenCache(ABC):
    """A policy at work on one canvas; owns the buffers."""

    @abstractmethod
    def view(self, start: int, stop: int, mask_token_id: int) -> View:
        """A view for decoding columns start to stop, of which everything to the left is finished."""


class CachePolicy(ABC):
    """What is kept, and when it is refreshed."""

    guided: ClassVar[bool] = True
    """Whether it works under guidance, whose second input has a masked prompt."""
    editable: ClassVar[bool] = True
    """Whether written tokens of the open window may be replaced."""
    windowed: ClassVar[bool] = True
    """Whether a view serves one window only."""

    @property
    def memoryless(self) -> bool:
        """Whether an answer depends on the canvas now and at the opening of the window, and on no step in between."""
        return False

    @abstractmethod
    def open(self, denoiser: Denoiser, shape: Shape, model_kwargs: dict[str, Any]) -> OpenCache:
        """Begin a canvas.

        Args:
            denoiser: the model.
            shape: of the canvas.
            model_kwargs: what the model will be called with.

        Raises:
            ValueError: if the model can't be cached.
        """

    def check(self, window: Window) -> None:
        """Whether it can work on such windows.

        Raises:
            ValueError: if it can't.
        """
        return


class _PlainView(View):
    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """See `Denoiser.logits`."""
        return self.denoiser.logits(tokens, where, **model_kwargs)


class _Plain(OpenCache):
    def __init__(self, denoiser: Denoiser) -> None:
        self.plain = _PlainView(denoiser)

    def view(self, start: int, stop: int, mask_token_id: int) -> View:
        """See `OpenCache`."""
        return self.plain


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """The whole canvas in every step."""

    windowed: ClassVar[bool] = False

    @property
    def memoryless(self) -> bool:
        """See `CachePolicy`."""
        return True

    def open(self, denoiser: Denoiser, shape: Shape, model_kwargs: dict[str, Any]) -> OpenCache:
        """See `CachePolicy`."""
        return _Plain(denoiser)


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
