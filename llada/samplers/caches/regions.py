"""Caches that compute a region of the canvas in each step: prefix, dual and vicinity.

Shapes: B rows, L columns of the canvas, M wanted positions per row, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process.columns import Edit
from llada.rows import left_padding
from llada.samplers.caches.partial_pass import region_logits, row_columns
from llada.samplers.caches.policy import CachePolicy, OpenCache, caching_backbone
from llada.samplers.caches.turns import Turns


class _Regions(OpenCache):
    """Full passes as the policy wants them; passes over the region in between."""

    def __init__(self, policy: "RegionCache", denoiser: Denoiser, rows: int, length: int) -> None:
        self.policy, self.denoiser, self.length = policy, denoiser, length
        self.store = caching_backbone(denoiser).new_cache(rows, length)
        self.turns, self.begins, self.stop = Turns(rows), [0] * rows, length
        self.made: list[int] | None = [0] * rows if policy.warm_up > 1 else None  # calls of each input while warming up
        self.asking: Tensor | None = None
        self.edited = [length] * rows  # from where on what is kept is of columns that have moved since
        self.spans, self.even = [(0, length)] * rows, True  # the region of each row, and whether there is but one

    @override
    def begin_rows(self, begins: Sequence[int]) -> None:
        self.begins = list(begins)

    @override
    def begin_window(self, start: int, stop: int) -> None:
        self.turns.begin_window()
        self.stop = stop
        # A row that begins behind the window has nothing open in it.
        begins = [begin if start < begin < stop else start for begin in self.begins]
        cut = {begin: self._cut(begin, stop) for begin in set(begins)}
        self.spans = [cut[begin] for begin in begins]
        self.even = len(set(self.spans)) == 1

    @override
    def begin_step(self, still_open: Tensor, most: int) -> None:
        if self.made is not None:
            self.asking = still_open[:, : self.stop].any(1)

    def begin_windows(self, starts: Sequence[int], stops: Sequence[int], begun: Sequence[bool]) -> None:
        self.turns.restart(begun)
        self.stop = max(stops)
        spans = [self._cut(start, stop) for start, stop in zip(starts, stops, strict=True)]
        self.spans = [
            span if edited >= self.length else (min(span[0], max(0, edited - self.store.lead)), self.length)
            for span, edited in zip(spans, self.edited, strict=True)
        ]
        self.even = len(set(self.spans)) == 1

    @override
    def move(self, edit: Edit) -> None:
        self.store.move(edit.source)
        self.length = edit.source.shape[1]
        first = [min(a, b) for a, b in zip(self.edited, edit.first.tolist(), strict=True)]
        rows = edit.real.sum(1) + left_padding(edit.real, edit.real)[:, 0]
        self.edited = [self.length if a >= end else a for a, end in zip(first, rows.tolist(), strict=True)]

    def _cut(self, start: int, stop: int) -> tuple[int, int]:
        low, high = self.policy.region(start, stop, self.length)
        return max(0, low - self.store.lead), min(high, self.length)

    @override
    def begin_call(self, asking: Tensor) -> None:
        self.asking = asking
        self.turns.begin_call(asking)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """Logits at positions of the window, (B, M, V)."""
        assert where is not None
        region = self._region(self._warm(self.turns.due(self.policy.refreshes)), tokens.device)
        self.turns.end_call()
        self.edited = [self.length] * len(self.edited)
        return region_logits(self.denoiser, self.store, tokens, where, region, model_kwargs)

    def _warm(self, full: bool | Tensor) -> bool | Tensor:
        """Whether inputs make a full pass, with those that are warming up; counts the call."""
        if self.made is None:
            return full
        warming = torch.tensor([number < self.policy.warm_up for number in self.made])
        asking = [True] * len(self.made)
        if self.asking is not None:
            asking = self.asking.repeat(len(self.made) // len(self.asking)).tolist()
        self.made = [number + asks for number, asks in zip(self.made, asking, strict=True)]
        if min(self.made) >= self.policy.warm_up:
            self.made = None
        full = warming | full
        return bool(full[0]) if bool((full == full[0]).all()) else full

    def _region(self, full: bool | Tensor, device: torch.device) -> slice | Tensor:
        """What a call computes, where all inputs, none or some of them make a full pass."""
        if isinstance(full, bool) and (full or self.even):
            return slice(0, self.length) if full else slice(*self.spans[0])
        whole = full.tolist() if isinstance(full, Tensor) else [full] * len(self.spans)
        everything = (0, self.length)
        return row_columns([everything if a else span for a, span in zip(whole, self.spans, strict=True)], device)


@dataclass(frozen=True)
class RegionCache(CachePolicy):
    """A full pass when a window is opened, then passes over a region around it.

    Args:
        refresh: steps after which a full pass is made again within a window; None: only when it is opened. With 1
            nothing is reused.
        warm_up: the first calls of a row are full passes.

    Raises:
        ValueError: if either is less than 1.
    """

    everywhere: ClassVar[bool] = False
    ragged: ClassVar[bool] = True
    refresh: int | None = None
    warm_up: int = 1

    def __post_init__(self) -> None:
        if self.warm_up < 1 or (self.refresh is not None and self.refresh < 1):
            raise ValueError(f"warm_up and refresh must be 1 or more; got {self.warm_up} and {self.refresh}")

    @property
    def memoryless(self) -> bool:
        """With more full passes it matters how many steps lie between them."""
        return self.refresh == 1 or (self.refresh is None and self.warm_up == 1)

    @abstractmethod
    def region(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """Columns that are computed in every step while start to stop are decoded; cut at the ends of the canvas."""

    def refreshes(self, call: int) -> bool:
        """Whether a call, counted from 0 in each window, is a full pass when the row has warmed up."""
        return call == 0 or (self.refresh is not None and call % self.refresh == 0)

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        return _Regions(self, denoiser, len(first), length)


@dataclass(frozen=True)
class PrefixCache(RegionCache):
    """Keys and values of everything before the block are kept; the block and what follows is computed in every step.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.2.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, PrefixCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=PrefixCache())
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    computes_the_end: ClassVar[bool] = True

    @override
    def region(self, start: int, stop: int, length: int) -> tuple[int, int]:
        return start, length


@dataclass(frozen=True)
class DualCache(RegionCache):
    """Keys and values of everything around the block are kept; only the block is computed in every step.

    Reference:
        Wu et al., arXiv 2505.22618, section 3.2.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, DualCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=DualCache())
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    @override
    def region(self, start: int, stop: int, length: int) -> tuple[int, int]:
        return start, stop


@dataclass(frozen=True)
class VicinityCache(RegionCache):
    """As `DualCache`, but the neighbours of the block are computed along with it.

    Args:
        radius: neighbours on each side.

    Reference:
        Ma et al., "dInfer", arXiv 2510.08666.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, Quota, UnmaskingSampler, VicinityCache
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=VicinityCache(radius=2))
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    warm_up: int = 4
    radius: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius < 0:
            raise ValueError(f"radius must be 0 or more; got {self.radius}")

    @override
    def region(self, start: int, stop: int, length: int) -> tuple[int, int]:
        return start - self.radius, stop + self.radius
