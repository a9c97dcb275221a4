"""Who may see whom in attention, and where the tokens stand that see one another.

Shapes: B rows, L tokens of a row, Q queries, K keys, N real tokens of a batch, S runs of tokens that see one another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's mask: (row, head, query, key), index tensors, to whether the query sees the key."""

T = TypeVar("T")


class Layout(Enum):
    """What hides tokens from one another; a causal mask may come on top of the first three."""

    DENSE = "dense rows"
    PADDED = "padding"
    PACKED = "packed segments"
    STRUCTURED = "block structure"


@dataclass(frozen=True)
class Visibility:
    """Who may see whom. The default: everybody sees everybody.

    A subclass that hides more overrides `mask`, and `rule` for FlexAttention.

    Args:
        keys: (B, K) bool, True for real tokens; the others (padding) are seen by nobody.
        segments: (B, L) integers for packed rows; a token sees its own segment only, which is contiguous. Needs
            Q = K = L.
        causal: whether a token sees only itself and those before it. Needs Q = K.
        longest: a bound on the tokens that see one another, for kernels that must know; None for the row's length.
    """

    keys: Tensor | None = None
    segments: Tensor | None = None
    causal: bool = False
    longest: int | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def mask(self) -> Tensor | None:
        """Bool tensor that broadcasts to (B, 1, Q, K), True where a query may look; None where nothing is hidden.

        Padding alone stays (B, 1, 1, K): no (L, L) matrix is built for it. A causal mask alone is left to the kernel.
        Made once, then kept for all layers.
        """
        return self.once("mask", self._mask)

    def _mask(self) -> Tensor | None:
        mask = None
        if self.keys is not None:
            mask = self.keys[:, None, None, :]
        if self.segments is not None:
            same = (self.segments[:, :, None] == self.segments[:, None, :])[:, None]
            mask = same if mask is None else mask & same
        if self.causal and mask is not None:
            length = mask.shape[-1]
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        return mask

    @property
    def causal_only(self) -> bool:
        """Whether the kernel's own causal option says everything."""
        return self.causal and self.keys is None and self.segments is None

    @property
    def layout(self) -> Layout:
        """What a kernel must be able to hide. Of a subclass with a mask of its own nothing else is known."""
        if type(self).mask is not Visibility.mask:
            return Layout.STRUCTURED
        if self.segments is not None:
            return Layout.PACKED
        return Layout.DENSE if self.keys is None else Layout.PADDED

    def rule(self) -> Rule | None:
        """The same as a function of indices, for FlexAttention; None if only `mask` knows."""
        if self.layout is Layout.STRUCTURED:
            return None

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            result = query >= key if self.causal else query >= 0
            if self.keys is not None:
                result = result & self.keys[row, key]
            if self.segments is not None:
                result = result & (self.segments[row, query] == self.segments[row, key])
            return result

        return seen

    def runs(self, rows: int, queries: int, columns: int, device: torch.device) -> "Runs":
        """Where the tokens that see one another stand in the flattened batch. Found once, then kept for all layers.

        Args:
            rows: B.
            queries: Q.
            columns: K.
            device: of the tokens.

        Raises:
            ValueError: if the structure can't be said by runs.
        """
        if self.layout is Layout.STRUCTURED:
            raise ValueError(f"{type(self).__name__} isn't made of runs of tokens that all see one another")
        return self.once(("runs", rows, queries, columns), lambda: self._runs(rows, queries, columns, device))

    def prepare(self, tokens: Tensor) -> None:
        """Find the runs of tokens (B, L) on a GPU before the first block: blocks that are compiled one by one can't.

        How many runs there are depends on the data, so the search waits for the device.
        """
        if self.layout is Layout.PACKED and tokens.device.type == "cuda":
            rows, length = tokens.shape
            self.runs(rows, length, length, tokens.device)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` makes, kept under ``key`` as long as this object lives: one forward pass.

        (`functools.cached_property` would take a lock, which `torch.compile` can't trace.)
        """
        if key in self._kept:
            kept: T = self._kept[key]
            return kept
        made = make()
        if not torch.compiler.is_compiling():  # a graph sees equal parts itself, and must have no side effects
            self._kept[key] = made
        return made

    def _runs(self, rows: int, queries: int, columns: int, device: torch.device) -> "Runs":
        if self.layout is Layout.DENSE:
            q, k = (torch.arange(rows + 1, device=device, dtype=torch.int32) * size for size in (queries, columns))
            return Runs(None, q, queries, None, k, columns)
        if self.segments is None and queries != columns:  # of the queries all are real, or nobody knows
            q = torch.arange(rows + 1, device=device, dtype=torch.int32) * queries
            index, bounds = self._places(rows, columns, device)
            return Runs(None, q, queries, index, bounds, columns)
        index, bounds = self._places(rows, columns, device)
        longest = columns if self.longest is None else self.longest
        return Runs(index, bounds, longest, index, bounds, longest)

    def _places(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """Flat places (N,) of the real tokens, None for all; and where the runs begin and end among them, (S + 1,)."""
        if self.segments is None:
            assert self.keys is not None
            ends = self.keys.sum(1).cumsum(0)
            return self.keys.flatten().nonzero()[:, 0], torch.cat([ends.new_zeros(1), ends]).int()
        owner = torch.arange(rows, device=device)[:, None].expand(rows, columns).flatten()
        segment, index = self.segments.flatten(), None
        if self.keys is not None:
            index = self.keys.flatten().nonzero()[:, 0]
            owner, segment = owner[index], segment[index]
        begins = torch.ones_like(owner, dtype=torch.bool)
        begins[1:] = (owner[1:] != owner[:-1]) | (segment[1:] != segment[:-1])
        total = torch.tensor([len(owner)], device=device)
        return index, torch.cat([begins.nonzero()[:, 0], total]).int()


@dataclass(frozen=True)
class Runs:
    """Runs of tokens that see one another in a flattened batch; query run s sees key run s.

    Args:
        query_index: (N,) int64 flat places of the queries; None for all of them, in order.
        query_bounds: (S + 1,) int32, run s holds queries bounds[s] .. bounds[s + 1] - 1 of those.
        longest_query: a bound on the length of a run.
        key_index: of the keys, as ``query_index``.
        key_bounds: of the keys.
        longest_key: of the keys.
    """

    query_index: Tensor | None
    query_bounds: Tensor
    longest_query: int
    key_index: Tensor | None
    key_bounds: Tensor
    longest_key: int

    @cached_property
    def query_lengths(self) -> list[int]:
        """Length of each run of queries, on the host."""
        lengths: list[int] = self.query_bounds.diff().tolist()
        return lengths

    @cached_property
    def key_lengths(self) -> list[int]:
        """Length of each run of keys, on the host."""
        same = self.key_bounds is self.query_bounds
        lengths: list[int] = self.query_lengths if same else self.key_bounds.diff().tolist()
        return lengths
