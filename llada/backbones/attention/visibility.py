"""Who may see whom in attention, and where the tokens stand that see one another.

    seen(row, query, key) = real(key) and segment(query) = segment(key) [and key <= query if causal]

This rule is the only place that says it; the mask is the rule on a grid of all indices.

Shapes: B rows, L tokens of a row, Q queries, K keys, N real tokens of a batch, S runs of tokens that see one another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from llada.rows import segment_starts

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's mask: (row, head, query, key), index tensors, to whether the query sees the key."""

T = TypeVar("T")


class Structure(Enum):
    """What hides tokens from one another; a causal mask may come on top of the first three."""

    DENSE = "dense rows"
    PADDED = "padding"
    PACKED = "packed segments"
    STRUCTURED = "block structure"


@dataclass(frozen=True)
class Visibility:
    """Who may see whom. The default: everybody sees everybody.

    A subclass that hides other tokens overrides `rule` and `grid`.

    Args:
        keys: (B, K) bool, True for real tokens; the others (padding) are seen by nobody.
        segments: (B, L) integers for packed rows; a token sees its own segment only, which is contiguous. Needs
            Q = K = L.
        causal: whether a token sees only itself and those before it. Needs Q = K.
        longest: a bound on the number of tokens that see one another, for kernels that must know; None for the row's
            length.

    Examples:
        >>> import torch
        >>> from llada.backbones import Visibility
        >>> Visibility().mask is None  # nothing is hidden
        True
        >>> Visibility(segments=torch.tensor([[0, 0, 1]])).mask.int()
        tensor([[[[1, 1, 0],
                  [1, 1, 0],
                  [0, 0, 1]]]], dtype=torch.int32)
        >>> Visibility(keys=torch.tensor([[True, True, False]]), causal=True).mask.int()
        tensor([[[[1, 0, 0],
                  [1, 1, 0],
                  [1, 1, 0]]]], dtype=torch.int32)
    """

    keys: Tensor | None = None
    segments: Tensor | None = None
    causal: bool = False
    longest: int | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _own_mask: ClassVar[bool] = False
    _own_rule: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Note what a subclass overrides; asked in a graph, older PyTorch takes a property for another one."""
        super().__init_subclass__()
        cls._own_mask, cls._own_rule = cls.mask is not Visibility.mask, cls.rule is not Visibility.rule

    @property
    def mask(self) -> Tensor | None:
        """Bool tensor that broadcasts to (B, 1, Q, K), True where a query may look; None where nothing is hidden.

        Padding alone stays (B, 1, 1, K): no (L, L) matrix is built for it. A causal mask alone is left to the kernel.
        Computed once, then kept for all layers.
        """
        if self.structure is Structure.DENSE:
            return None
        return self.once("mask", self._mask)

    def _mask(self) -> Tensor:
        row, query, key = self.grid()
        return self.rule()(row, torch.zeros_like(row), query, key)

    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """All indices of rows, queries and keys, as from `indices`; one index for what the rule doesn't depend on."""
        given = self.segments if self.keys is None else self.keys
        rows, length = (1, 1) if given is None else given.shape
        queries = length if self.causal or self.segments is not None else 1
        return indices(rows, queries, length, None if given is None else given.device)

    @property
    def causal_only(self) -> bool:
        """Whether the kernel's own causal option says everything."""
        return self.causal and self.structure is Structure.DENSE

    @property
    def structure(self) -> Structure:
        """What a kernel must be able to hide. Of a subclass with a rule or a mask of its own nothing else is known."""
        if self._own_mask or self._own_rule:
            return Structure.STRUCTURED
        if self.segments is not None:
            return Structure.PACKED
        return Structure.DENSE if self.keys is None else Structure.PADDED

    def rule(self) -> Rule:
        """Who may see whom as a function of indices: (row, head, query, key) to bool.

        A subclass that overrides only `mask` is looked up in it.
        """
        if self._own_mask:
            return _looked_up(self.mask)

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shown = self.shown(row, query, key)
            return shown & (query >= key) if self.causal else shown

        return seen

    def shown(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a key is real and of the query's segment; the part of the rule that subclasses share.

        Args:
            row: integers that broadcast with the others.
            query: columns of queries.
            key: columns of keys.
        """
        result = key >= 0
        if self.keys is not None:
            result = result & self.keys[row, key]
        if self.segments is not None:
            result = result & (self.segments[row, query] == self.segments[row, key])
        return result

    def runs(self, rows: int, queries: int, columns: int, device: torch.device) -> "Runs":
        """Where the tokens that see one another stand in the flattened batch.

        Computed once for the sizes of the first call, then kept for all layers.

        Args:
            rows: number of rows, B.
            queries: number of queries of a row, Q.
            columns: number of keys of a row, K.
            device: device of the tokens.

        Raises:
            ValueError: if the structure can't be said by runs.
        """
        if self.structure is Structure.STRUCTURED:
            raise ValueError(f"{type(self).__name__} isn't made of runs of tokens that all see one another")
        sizes = rows, queries, columns
        if not torch.compiler.is_compiling() and self.once("sizes", lambda: sizes) != sizes:
            return self._runs(*sizes, device)
        # The key names no sizes: a compiler would take them for constants, and compile anew for each batch's.
        return self.once("runs", lambda: self._runs(*sizes, device))

    def parts(self, rows: int) -> "tuple[Runs, ...] | None":
        """What block-structured queries see, as disjoint sets of runs; None where it isn't known.

        Args:
            rows: number of rows, B.
        """
        return None

    def prepare(self, tokens: Tensor) -> None:
        """Find the runs of tokens (B, L) on a GPU before the first block: blocks that are compiled one by one can't.

        How many runs there are depends on the data, so the search waits for the device.
        """
        if self.structure is Structure.PACKED and tokens.device.type == "cuda":
            rows, length = tokens.shape
            self.runs(rows, length, length, tokens.device)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """The value of ``make()``, computed once and kept under ``key`` as long as this object lives: one forward pass.

        (`functools.cached_property` would take a lock, which `torch.compile` can't trace.)
        """
        if key in self._kept:
            kept: T = self._kept[key]
            return kept
        value = make()
        if not torch.compiler.is_compiling():  # a graph sees equal parts itself, and must have no side effects
            self._kept[key] = value
        return value

    def _runs(self, rows: int, queries: int, columns: int, device: torch.device) -> "Runs":
        if self.structure is Structure.DENSE:
            q, k = (torch.arange(rows + 1, device=device, dtype=torch.int32) * size for size in (queries, columns))
            return Runs(None, q, queries, None, k, columns)
        if self.segments is None and queries != columns:  # a region's queries: all of them are taken to be real
            q = torch.arange(rows + 1, device=device, dtype=torch.int32) * queries
            index, bounds = self._real_tokens(rows, columns, device)
            return Runs(None, q, queries, index, bounds, columns)
        index, bounds = self._real_tokens(rows, columns, device)
        longest = columns if self.longest is None else self.longest
        return Runs(index, bounds, longest, index, bounds, longest)

    def _real_tokens(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """Flat indices (N,) of the real tokens, None for all; and where the runs begin and end among them, (S + 1,)."""
        if self.segments is None:
            assert self.keys is not None
            ends = self.keys.sum(1).cumsum(0)
            return self.keys.flatten().nonzero()[:, 0], torch.cat([ends.new_zeros(1), ends]).int()
        owner = torch.arange(rows, device=device)[:, None].expand(rows, columns).flatten()
        segment, index = self.segments.flatten(), None
        if self.keys is not None:
            index = self.keys.flatten().nonzero()[:, 0]
            owner, segment = owner[index], segment[index]
        begins = (segment_starts(owner[None]) | segment_starts(segment[None]))[0]
        total = torch.full((1,), len(owner), device=device)
        return index, torch.cat([begins.nonzero()[:, 0], total]).int()


def indices(rows: int, queries: int, columns: int, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (B, 1, 1, 1) of rows, (Q, 1) of queries and (K,) of keys, which broadcast to a mask (B, 1, Q, K)."""
    row, query, key = (torch.arange(size, device=device) for size in (rows, queries, columns))
    return row[:, None, None, None], query[:, None], key


def _looked_up(mask: Tensor | None) -> Rule:
    """A mask (B or 1, 1, Q or 1, K) as a rule."""
    if mask is None:
        return lambda row, head, query, key: query >= 0
    table = mask[:, 0]

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[row if len(table) > 1 else row * 0, query if table.shape[1] > 1 else query * 0, key]

    return seen


@dataclass(frozen=True)
class Runs:
    """Runs of tokens that see one another in a flattened batch; query run s sees key run s.

    Args:
        query_index: (N,) int64 flat indices of the queries into B * Q; None for all of them, in order.
        query_bounds: (S + 1,) int32, run s holds queries bounds[s] .. bounds[s + 1] - 1 of those.
        longest_query: a bound on the number of queries in a run.
        key_index: (N,) int64 flat indices of the keys into B * K; None for all of them, in order.
        key_bounds: (S + 1,) int32, as ``query_bounds``.
        longest_key: a bound on the number of keys in a run.
        masked: whether some pairs of a run don't see one another; `Visibility.rule` says which.
    """

    query_index: Tensor | None
    query_bounds: Tensor
    longest_query: int
    key_index: Tensor | None
    key_bounds: Tensor
    longest_key: int
    masked: bool = False

    @cached_property
    def query_lengths(self) -> list[int]:
        """Length of each run of queries, on the host."""
        lengths: list[int] = self.query_bounds.diff().tolist()
        return lengths

    @cached_property
    def key_lengths(self) -> list[int]:
        """Length of each run of keys, on the host."""
        return self.query_lengths if self.key_bounds is self.query_bounds else self.key_bounds.diff().tolist()

    @property
    def pairs(self) -> int:
        """How many pairs of a query and a key see one another."""
        return int((self.query_bounds.diff().long() * self.key_bounds.diff()).sum())

    @property
    def tokens(self) -> int:
        """How many queries and keys the runs hold together."""
        return int(self.query_bounds[-1] + self.key_bounds[-1])
