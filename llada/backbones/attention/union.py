"""Attention over a union of sets of keys: one kernel call per set, merged exactly.

For disjoint sets, each with its result o_s and the log-sum-exp l_s of its scores,

    l = logsumexp_s l_s,      o = sum_s exp(l_s - l) o_s

The backward pass runs each set's own kernel with the *global* o and l (see `llada.backbones.attention.calls`), so it is
exact, too. Nothing of the size of a mask is ever built. The sets of a block-causal row, and of the two copies that
train one, are in `llada.backbones.attention.halves`.

Reference: Liu et al., "Ring Attention with Blockwise Transformers", arXiv 2310.01889, for the merge.
Shapes as in `llada.backbones.attention.kernel`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from llada.backbones.attention.calls import Call, calls
from llada.backbones.attention.kernel import Case, Kernel
from llada.backbones.attention.visibility import Structure, Visibility


@dataclass(frozen=True)
class UnionAttention(Kernel):
    """Block structure without a mask: memory grows with the row's length, time with the pairs that are seen."""

    answers_padding: ClassVar[bool] = False

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        self.check(q, visibility)
        parts = visibility.parts(len(q))
        if parts is None:
            raise ValueError(
                f"attention='union' doesn't know what {type(visibility).__name__} shows here as a union of runs; "
                "use 'auto', 'flex' or 'sdpa'"
            )
        device, length = q.device, q.shape[2]
        made = visibility.once(("calls", len(q), device), lambda: calls(visibility, parts, length, device))
        if torch.is_autocast_enabled(device.type):
            q, k, v = (x.to(torch.get_autocast_dtype(device.type)) for x in (q, k, v))
        result = Union.apply(q.contiguous(), k.contiguous(), v.contiguous(), made)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    @override
    def unfit(self, case: Case) -> str | None:
        if case.structure is not Structure.STRUCTURED:
            return f"attention='union' is for block structure, not {case.structure.value}; use 'auto' or 'sdpa'"
        if case.compiling:
            return "attention='union' can't be traced by torch.compile; use 'auto', 'flex' or 'sdpa'"
        if case.device != "cpu" and not case.half_on_ampere:
            return (
                "attention='union' needs a CPU, or a CUDA device of capability 8.0 or more with float16 or bfloat16 "
                f"and heads whose width is a multiple of 8 up to 256; got {case.device}, {case.dtype}, width "
                f"{case.head_dim}; use 'auto' or 'sdpa'"
            )
        return None


class Union(torch.autograd.Function):
    """Attention over several calls, and its gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, made: list[Call]) -> Tensor:
        """(B, H, Q, d) from contiguous heads; results are summed in float32 at least."""
        exact = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.zeros_like(q, dtype=exact), torch.full(q.shape[:-1], -torch.inf, dtype=exact, device=q.device)
        for call in made:
            asked, answering = _lines(call, q, k)
            merge(out, lse, asked, *call.forward(_take(q, asked), _take(k, answering), _take(v, answering)))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls = made
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k and v, summed over the calls in float32 at least."""
        q, k, v, out, lse = ctx.saved_tensors
        grad = grad.contiguous()
        sums = [torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v)]
        for call in ctx.calls:
            asked, answering = _lines(call, q, k)
            found = call.backward(
                _take(grad, asked),
                _take(q, asked),
                _take(k, answering),
                _take(v, answering),
                _take(out, asked),
                _take(lse[..., None], asked)[..., 0],
            )
            for total, part, where in zip(sums, found, (asked, answering, answering), strict=True):
                total.view(-1, total.shape[-1]).index_add_(0, where.flatten(), part.flatten(0, -2).to(total.dtype))
        dq, dk, dv = (x.to(q.dtype) for x in sums)
        return dq, dk, dv, None


def merge(out: Tensor, lse: Tensor, where: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add the result over further keys to that over some, in place.

    Args:
        out: (B, H, Q, d) contiguous, so far.
        lse: (B, H, Q) its log-sum-exp, -inf where no key has been seen.
        where: lines of ``out`` that see further keys.
        more: (*where, d) result over them.
        more_lse: (*where) its log-sum-exp.
    """
    width, index = out.shape[-1], where.flatten()
    old, more_lse = lse.view(-1).index_select(0, index), more_lse.reshape(-1).to(lse.dtype)
    new = torch.logaddexp(old, more_lse)
    sums = out.view(-1, width).index_select(0, index).mul_((old - new).exp()[:, None])
    sums.addcmul_(more.reshape(-1, width).to(out.dtype), (more_lse - new).exp()[:, None])
    out.view(-1, width).index_copy_(0, index, sums)
    lse.view(-1).index_copy_(0, index, new)


def _lines(call: Call, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The lines of queries and of keys that a call reads."""
    return call.query_lines(q.shape[1], q.shape[2]), call.key_lines(q.shape[1], k.shape[1], k.shape[2])


def _take(x: Tensor, where: Tensor) -> Tensor:
    """(B, H, L, d) to the lines (*where, d)."""
    return x.view(-1, x.shape[-1]).index_select(0, where.flatten()).view(*where.shape, -1)
