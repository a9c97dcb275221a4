"""Attention over runs of tokens: padding and other segments are never computed, nor is a mask ever built.

The batch is flattened to its real tokens, and cumulative lengths say where a run begins. Shapes as in
`llada.backbones.attention.kernel`; N queries and M keys in all runs together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.kernel import Case, Kernel, needs_half_on_ampere, repeated, scaled_dot_product
from llada.backbones.attention.visibility import Runs, Structure, Visibility

Core = Callable[[Tensor, Tensor, Tensor, Runs], Tensor]
"""(N, H, d), (M, G, d), (M, G, d) and the runs to (N, H, d)."""


def over_runs(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, core: Core) -> Tensor:
    """Pack the real tokens, compute over their runs, and put the results back; zeros for queries that are padding.

    Args:
        q: (B, H, Q, d).
        k: (B, G, K, d).
        v: (B, G, K, d).
        visibility: who may see whom, not block-structured.
        core: the computation.
    """
    rows, heads, queries, width = q.shape
    runs = visibility.runs(rows, queries, k.shape[2], q.device)
    result = core(_flat(q, runs.query_index), _flat(k, runs.key_index), _flat(v, runs.key_index), runs)
    if runs.query_index is not None:
        result = result.new_zeros(rows * queries, heads, width).index_copy(0, runs.query_index, result)
    return result.view(rows, queries, heads, width).transpose(1, 2)


def _flat(x: Tensor, index: Tensor | None) -> Tensor:
    """From (B, H, L, d) to the tokens at flat indices (N,) into B * L, (N, H, d); None for all of them."""
    x = x.transpose(1, 2).flatten(0, 1)
    return x if index is None else x[index]


@dataclass(frozen=True)
class SegmentLoop(Kernel):
    """PyTorch's `scaled_dot_product_attention`, run by run: on any device, in any precision, with gradients.

    Its time grows with the sum of the squared lengths, that of a mask with the square of the sum.
    """

    unpads: ClassVar[bool] = True
    answers_padding: ClassVar[bool] = False

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        self.check(q, visibility)

        def loop(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
            parts = q.split(runs.query_lengths), k.split(runs.key_lengths), v.split(runs.key_lengths)
            done = []
            for run in zip(*parts, strict=True):
                a, b, c = (part.transpose(0, 1)[None] for part in run)
                result = scaled_dot_product(a, b, c, causal=visibility.causal)
                done.append(result[0].transpose(0, 1))
            return torch.cat(done) if done else q + k.sum() + v.sum()  # nothing, but a function of all three

        return over_runs(q, k, v, visibility, loop)

    @override
    def unfit(self, case: Case) -> str | None:
        if case.structure is Structure.STRUCTURED:
            return f"attention='segments' can't compute {case.structure.value}; use 'auto', 'flex' or 'sdpa'"
        return None


@dataclass(frozen=True)
class TorchVarlen(Kernel):
    """PyTorch's own FlashAttention over runs, `torch.nn.attention.varlen.varlen_attn`: CUDA, half precision.

    Its arguments differ by release, and it is given what the installed one takes.
    """

    unpads: ClassVar[bool] = True
    answers_padding: ClassVar[bool] = False

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        self.check(q, visibility)
        from torch.nn.attention.varlen import varlen_attn

        takes = Case.of(q, visibility).varlen or ()
        options: dict[str, Any] = {}
        if visibility.causal:
            options |= {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
        if q.shape[1] != k.shape[1] and "enable_gqa" in takes:
            options["enable_gqa"] = True
        elif q.shape[1] != k.shape[1]:
            k, v = repeated(q, k, v)

        def core(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
            bounds = runs.query_bounds, runs.key_bounds, runs.longest_query, runs.longest_key
            result = varlen_attn(q, k, v, *bounds, **options)
            assert isinstance(result, Tensor)
            return result

        return over_runs(q, k, v, visibility, core)

    @override
    def unfit(self, case: Case) -> str | None:
        if case.device == "cuda" and case.varlen is None:
            return f"attention='varlen' needs torch 2.10 or newer; this is {torch.__version__}; use 'auto' or 'flash'"
        return needs_half_on_ampere("varlen", case)
