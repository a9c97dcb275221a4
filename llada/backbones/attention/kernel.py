"""What an attention kernel is, and the cases by which it says whether it can compute them.

    kernel(q, k, v) = softmax(q k^T / sqrt(d) + visibility) v

Shapes: B rows, H query heads, G key/value heads (G divides H), Q queries, K keys, d head width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.backbones.attention import offered
from llada.backbones.attention.visibility import Structure, Visibility


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
        installed: which modules of FlashAttention are there, see `llada.backbones.attention.offered`.
        varlen: names of the arguments that PyTorch's attention over runs takes; None without it.
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
    installed: Collection[str] = ()
    varlen: Collection[str] | None = None
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
            capability=offered.capability(q.device.index or 0) if cuda else None,
            installed=offered.installed() if cuda else (),
            varlen=offered.varlen_arguments() if cuda else None,
            cells_per_run=_cells_per_run(q, visibility),
            union_gain=_union_gain(q, visibility),
        )

    @property
    def half_on_ampere(self) -> bool:
        """Whether the FlashAttention kernels take it: CUDA from Ampere on, half precision, heads of up to 256."""
        fits = self.head_dim <= 256 and self.head_dim % 8 == 0
        half = self.dtype in (torch.float16, torch.bfloat16)
        return self.device == "cuda" and (self.capability or (0, 0)) >= (8, 0) and half and fits


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


def repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, G, K, d) once for each query head, (B, H, K, d)."""
    groups = q.shape[1] // k.shape[1]
    return k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, so that a fused kernel can take it.

    Outside of the CPU only FlashAttention computes grouped queries; the formula with all its (H, Q, K) scores would
    serve where it can't. There keys and values are repeated instead, for the kernels that take them so.

    Args:
        q: (B, H, Q, d).
        k: (B, G, K, d).
        v: (B, G, K, d).
        mask: broadcasts to (B, H, Q, K), True where a query may look; None for everywhere.
        causal: whether a query sees only the keys up to its own place; without a mask.
    """
    if q.shape[1] != k.shape[1] and q.device.type != "cpu" and (mask is not None or not _flash_takes(q)):
        k, v = repeated(q, k, v)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _flash_takes(q: Tensor) -> bool:
    """Whether PyTorch's own FlashAttention runs on these queries, as far as dtype, width and device go."""
    device = q.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    where = offered.capability(q.device.index or 0) if device == "cuda" else None
    return Case(device, dtype, q.shape[-1], Structure.DENSE, capability=where).half_on_ampere


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
