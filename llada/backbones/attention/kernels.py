"""The attention kernels by name, and which of them computes what if none is named.

    attend(q, k, v) = softmax(q k^T / sqrt(d) + visibility) v

A kernel that is named computes, or says why it can't; only "auto" chooses. A new one is an entry in `KERNELS`: a
`llada.backbones.attention.kernel.Kernel`, or a plain function of (q, k, v, visibility).

Shapes: B rows, H query heads, G key/value heads (G divides H), Q queries, K keys, d head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.flash import FlashAttention, is_installed, prefers_version_3
from llada.backbones.attention.flex import FlexAttention
from llada.backbones.attention.kernel import Case, Kernel, repeated, scaled_dot_product
from llada.backbones.attention.union import UnionAttention
from llada.backbones.attention.varlen import SegmentLoop, TorchVarlen
from llada.backbones.attention.visibility import Structure, Visibility

__all__ = ["KERNELS", "AutoAttention", "Case", "FunctionKernel", "Kernel", "Structure", "Visibility"]
__all__ += ["check_answers_padding", "kernel_by_name", "kernel_for", "plain_attention", "sdpa_attention"]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
    """The formula, written out; the reference for the other kernels.

    Args:
        q: (B, H, Q, d).
        k: (B, G, K, d).
        v: (B, G, K, d).
        visibility: who may see whom.

    Returns:
        (B, H, Q, d) in the dtype of ``q``. A query that may see nobody gets zeros.
    """
    k, v = repeated(q, k, v)
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * q.shape[-1] ** -0.5
    mask = visibility.mask
    if visibility.causal_only:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probabilities = scores.softmax(-1).nan_to_num(0.0)
    return probabilities.to(v.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, which picks a fused kernel for the device and dtype.

    Arguments and result are those of `plain_attention`.
    """
    return scaled_dot_product(q, k, v, visibility.mask, causal=visibility.causal_only)


@dataclass(frozen=True)
class FunctionKernel(Kernel):
    """A kernel that is no more than a function, and computes every case.

    Args:
        function: (q, k, v, visibility) to the result, see `Kernel`.
    """

    function: Callable[[Tensor, Tensor, Tensor, Visibility], Tensor]

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        return self.function(q, k, v, visibility)


@dataclass(frozen=True)
class AutoAttention(Kernel):
    """The kernel that `kernel_for` names, call by call."""

    unpads: ClassVar[bool] = True

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        if q.device.type == "cpu" and visibility.structure is Structure.DENSE:  # as in every step of decoding
            return KERNELS["sdpa"](q, k, v, visibility)
        return KERNELS[kernel_for(Case.of(q, visibility))](q, k, v, visibility)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Visibility], Tensor]] = {
    "auto": AutoAttention(),
    "plain": FunctionKernel(plain_attention),
    "sdpa": FunctionKernel(sdpa_attention),
    "segments": SegmentLoop(),
    "varlen": TorchVarlen(),
    "flash": FlashAttention(),
    "flex": FlexAttention(),
    "union": UnionAttention(),
}


CELLS_THAT_PAY_A_RUN = 4096
"""A run costs the CPU about as much time as so many entries of a mask: measured, one thread, 4 heads of 64."""


def kernel_for(case: Case) -> str:
    """The name of the kernel that "auto" takes.

    Padding alone needs no kernel of its own, for its mask stays (B, 1, 1, K), and backbones leave padding out before it
    gets here where they can, see `llada.backbones.attention.unpadded`. Packed segments go to a kernel over runs, so
    that no (L, L) matrix is built. But on the CPU many short segments of a short row are faster with a mask, and while
    `torch.compile` traces, a loop over runs would be unrolled. Block structure is a union of runs on the CPU where that
    is faster than a mask; on CUDA, where it isn't measured, FlexAttention.

    Args:
        case: device, dtype and structure.
    """
    if case.structure is Structure.STRUCTURED:
        if case.device == "cuda":
            return "flex"
        return "union" if case.union_gain > 1 and not case.compiling else "sdpa"
    if case.structure is Structure.PACKED:
        if case.half_on_ampere and (is_installed(case) or case.varlen is not None):
            return "flash" if is_installed(case) else "varlen"
        if case.compiling:
            return "flex" if case.device == "cuda" else "sdpa"
        return "segments" if case.cells_per_run >= CELLS_THAT_PAY_A_RUN else "sdpa"
    fast = case.half_on_ampere and case.structure is Structure.DENSE
    return "flash" if fast and prefers_version_3(case) else "sdpa"


def kernel_by_name(name: str) -> Kernel:
    """The attention kernel of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in KERNELS:
        raise ValueError(f"attention kernel {name!r} is unknown; choose one of {', '.join(map(repr, KERNELS))}")
    kernel = KERNELS[name]
    return kernel if isinstance(kernel, Kernel) else FunctionKernel(kernel)


def check_answers_padding(name: str) -> None:
    """Whether a kernel can serve a model that may read its outputs at padding: one with shifted outputs.

    Raises:
        ValueError: if it can't.
    """
    if not kernel_by_name(name).answers_padding:
        raise ValueError(
            f"attention={name!r} computes nothing at padding, where a backbone with shift=True reads the prediction of "
            "a row's first token; use 'auto' or 'sdpa'"
        )
