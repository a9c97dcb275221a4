"""FlexAttention: any visibility by a rule over indices, computed block by block, empty blocks skipped.

Reference: Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels",
arXiv 2412.05496.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.kernel import Case, Kernel
from llada.backbones.attention.visibility import Structure, Visibility


@dataclass(frozen=True)
class FlexAttention(Kernel):
    """`torch.nn.attention.flex_attention`, compiled on CUDA; on the CPU forward only, and slow."""

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        self.check(q, visibility)
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        rows, queries, columns = len(q), q.shape[2], k.shape[2]
        block_mask = None
        if visibility.structure is not Structure.DENSE or visibility.causal:
            block_mask = visibility.once(
                ("flex", rows, queries, columns),
                lambda: create_block_mask(visibility.rule(), rows, None, queries, columns, device=q.device),
            )
        run: Callable[..., Any] = flex_attention
        if q.device.type == "cuda" and not torch.compiler.is_compiling():
            run = _compiled()
        result = run(q, k, v, block_mask=block_mask, enable_gqa=q.shape[1] != k.shape[1])
        assert isinstance(result, Tensor)
        return result

    @override
    def unfit(self, case: Case) -> str | None:
        if case.device not in ("cpu", "cuda"):
            return f"attention='flex' needs a CPU or a CUDA device; got {case.device}; use 'auto' or 'sdpa'"
        if case.device == "cpu" and case.grad:
            return "attention='flex' has no backward pass on the CPU; use 'auto' or 'sdpa', or torch.no_grad()"
        return None


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
