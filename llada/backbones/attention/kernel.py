"""What an attention kernel is, and the cases by which it says whether it can compute them.

    kernel(q, k, v) = softmax(q k^T / sqrt(d) + visibility) v

Shapes: B rows, H query heads, G key/value heads (G divides H), Q queries, K keys, d head width.
"""

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from llada.backbones.attention.visibility import Structure, Visibility

FLASH_2, FLASH_3 = "flash_attn.flash_attn_interface", "flash_attn_interface"
"""Modules of FlashAttention 2 and 3. Version 4 has the same package name, flash_attn, but no such module."""


@dataclass(frozen=True)
class Case:
    """What decides on the kernels that can run, and on the best of them.

    Args:
        device: type of the device, such as "cpu" or "cuda".
        dtype: dtype of queries, keys and values.
        head_dim: width of a head, d.
        structure: what hides tokens from one another.
        causal: whether a causal mask comes on top.
        grad: whether gradients are wanted.
        compiling: whether `torch.compile` is tracing.
        capability: compute capability of the CUDA device, such as (9, 0); None elsewhere.
        installed: which of `FLASH_2` and `FLASH_3` are there.
        cells_per_run: entries that a mask would have, B L^2, per packed segment; asked for on the CPU only.
        union_gain: how many times faster than with a mask a block structure is as a union of runs, by arithmetic; asked
            for on the CPU only, 0 where it can't be.
    """

    device: str
    dtype: torch.dtype
    head_dim: int
    structure: Structure
    causal: bool = False
    grad: bool = False
    compiling: bool = False
    capability: tuple[int, int] | None = None
    installed: frozenset[str] = frozenset()
    cells_per_run: float = math.inf
    union_gain: float = 0.0

    @classmethod
    def of(cls, q: Tensor, visibility: Visibility) -> "Case":
        """The case of these queries."""
        cuda = q.device.type == "cuda"
        return cls(
            device=q.device.type,
            dtype=q.dtype,
            head_dim=q.shape[-1],
            structure=visibility.structure,
            causal=visibility.causal,
            grad=torch.is_grad_enabled() and q.requires_grad,
            compiling=torch.compiler.is_compiling(),
            capability=torch.cuda.get_device_capability(q.device) if cuda else None,
            installed=installed() if cuda else frozenset(),
            cells_per_run=_cells_per_run(q, visibility),
            union_gain=_union_gain(q, visibility),
        )

    @property
    def half_on_ampere(self) -> bool:
        """Whether the FlashAttention kernels take it: CUDA from Ampere on, half precision, heads of up to 256."""
        fits = self.head_dim <= 256 and self.head_dim % 8 == 0
        half = self.dtype in (torch.float16, torch.bfloat16)
        return self.device == "cuda" and (self.capability or (0, 0)) >= (8, 0) and half and fits


@lru_cache(maxsize=1)
def installed() -> frozenset[str]:
    """Which versions of FlashAttention are there."""
    found = set()
    for name in (FLASH_2, FLASH_3):
        with suppress(ModuleNotFoundError):  # of the package that the module would be in
            found.update([name] if find_spec(name) is not None else [])
    return frozenset(found)


def _cells_per_run(q: Tensor, visibility: Visibility) -> float:
    if q.device.type != "cpu" or visibility.structure is not Structure.PACKED or torch.compiler.is_compiling():
        return math.inf
    rows, length = len(q), q.shape[2]
    runs = len(visibility.runs(rows, length, length, q.device).query_bounds) - 1
    return rows * length**2 / max(runs, 1)


CELLS_PER_PAIR, CELLS_PER_TOKEN, CELLS_PER_PART = 0.75, 70, 15_000
"""What a union of runs costs the CPU, in entries of a mask: a pair that sees one another, a query or key that is
gathered for a part, and a part. Measured, one thread, forward and backward, 4 heads of 64 and 2 of 16."""


def _union_gain(q: Tensor, visibility: Visibility) -> float:
    rows, length = len(q), q.shape[2]
    if q.device.type != "cpu" or visibility.structure is not Structure.STRUCTURED or torch.compiler.is_compiling():
        return 0.0
    if length <= 2 * CELLS_PER_TOKEN:  # one part with all queries and keys costs as much as the mask
        return 0.0
    return visibility.once(("gain", rows, length), lambda: _gain(visibility, rows, length))


def _gain(visibility: Visibility, rows: int, length: int) -> float:
    parts = visibility.parts(rows)
    if parts is None:
        return 0.0
    cost = sum(CELLS_PER_PAIR * part.pairs + CELLS_PER_TOKEN * part.tokens + CELLS_PER_PART for part in parts)
    return rows * length**2 / cost


class Kernel(ABC):
    """Computes attention."""

    unpads: ClassVar[bool] = False
    """Whether backbones should leave padding out of all layers where they can."""

    answers_padding: ClassVar[bool] = True
    """Whether a query that is padding gets a result from the keys that it sees, as a real one does, and not zeros."""

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        """Attention.

        Args:
            q: (B, H, Q, d).
            k: (B, G, K, d).
            v: (B, G, K, d).
            visibility: who may see whom.

        Returns:
            (B, H, Q, d) in the dtype of ``q``. A query that may see nobody gets zeros.

        Raises:
            ValueError: if this kernel can't compute the case, saying why and what can.
            ImportError: if it needs a package that isn't there.
        """

    def unfit(self, case: Case) -> str | None:
        """Why this kernel can't compute the case, and what to do; None if it can."""
        return None

    def check(self, q: Tensor, visibility: Visibility) -> None:
        """Refuse what can't be computed.

        Raises:
            ValueError: with the reason of `unfit`.
        """
        reason = self.unfit(Case.of(q, visibility))
        if reason is not None:
            raise ValueError(reason)


def needs_half_on_ampere(name: str, case: Case) -> str | None:
    """Why a FlashAttention kernel can't compute the case, if so."""
    if case.structure is Structure.STRUCTURED:
        return f"attention={name!r} can't compute {case.structure.value}; use 'auto', 'flex' or 'sdpa'"
    if not case.half_on_ampere:
        where = case.device if case.capability is None else f"{case.device} {case.capability[0]}.{case.capability[1]}"
        return (
            f"attention={name!r} needs a CUDA device of capability 8.0 or more, float16 or bfloat16, and heads whose "
            f"width is a multiple of 8 up to 256; got {where}, {case.dtype}, width {case.head_dim}; use 'auto' or "
            "'sdpa', or a half precision"
        )
    return None
