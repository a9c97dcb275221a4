"""Attention kernels called below autograd: results with their log-sum-exp, and gradients from given ones.

A call computes softmax attention over some runs of a batch. Its backward pass takes the result o and the log-sum-exp l
of *all* keys of a query, of which the call's own may be a part: with S the scores,

    P = exp(S - l),   dV = P^T dO,   dS = P (dO V^T - rowsum(dO o)),   dQ = dS K,   dK = dS^T Q,

is what these keys contribute to the gradients, because kernels use o and l as they are given. (Ring attention computes
its gradients in the same way.)

Tensors of heads are (B, H, L, d), contiguous, and read as B * H * L lines of width d. Shapes: N queries and M keys in
all runs of a call, S runs, H query heads, G key/value heads.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.visibility import Rule, Runs, Visibility

QUERIES_PER_CALL = 2048
"""On the CPU a call takes about so many queries, which bounds what is gathered for it; fewer would cost time."""

Triple = tuple[Tensor, Tensor, Tensor]


class Call(ABC):
    """Some runs, and the kernel that computes them."""

    @abstractmethod
    def query_lines(self, heads: int, length: int) -> Tensor:
        """Which lines of queries it reads, integers of the shape of its results.

        Args:
            heads: H.
            length: queries of a row.
        """

    @abstractmethod
    def key_lines(self, heads: int, groups: int, length: int) -> Tensor:
        """Which lines of keys and values it reads.

        Args:
            heads: H.
            groups: G.
            length: keys of a row.
        """

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The result, as ``q``, and its log-sum-exp, without the last dimension."""

    @abstractmethod
    def backward(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
        """Gradients of queries, keys and values from those of the result.

        Args:
            grad: gradient of ``out``.
            q: queries.
            k: keys.
            v: values.
            out: result over all keys.
            lse: log-sum-exp over all keys.
        """


@dataclass(frozen=True)
class DenseCall(Call):
    """Runs of equal lengths as a batch, for PyTorch's FlashAttention on the CPU.

    Args:
        queries: (S, n) flat indices of tokens.
        keys: (S, m) flat indices of tokens.
        seen: (S or 1, 1, n, m) bool, which pairs see one another; None: all.
    """

    queries: Tensor
    keys: Tensor
    seen: Tensor | None = None

    @override
    def query_lines(self, heads: int, length: int) -> Tensor:
        return lines(self.queries[..., None], torch.arange(heads), heads, length)

    @override
    def key_lines(self, heads: int, groups: int, length: int) -> Tensor:
        return lines(self.keys[..., None], torch.arange(heads) // (heads // groups), groups, length)

    @override
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=self._mask(q))
        return out.transpose(1, 2), lse.transpose(1, 2)

    @override
    def backward(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad, q, k, v, out, lse = (x.transpose(1, 2) for x in (grad, q, k, v, out, lse))
        dq, dk, dv = (x.transpose(1, 2) for x in backward(grad, q, k, v, out, lse, 0.0, False, attn_mask=self._mask(q)))
        return dq, dk, dv

    def _mask(self, q: Tensor) -> Tensor | None:
        """What the kernel adds to the scores, (S, H, n, m)."""
        if self.seen is None:
            return None
        hidden = torch.zeros(self.seen.shape, dtype=q.dtype).masked_fill(~self.seen, -torch.inf)
        return hidden.expand(q.shape[0], q.shape[1], -1, -1)


@dataclass(frozen=True)
class VarlenCall(Call):
    """All runs of a part at once, by PyTorch's FlashAttention over runs on CUDA.

    Args:
        runs: the part.
    """

    runs: Runs

    @override
    def query_lines(self, heads: int, length: int) -> Tensor:
        assert self.runs.query_index is not None
        return lines(self.runs.query_index[:, None], _heads(heads, self.runs.query_index), heads, length)

    @override
    def key_lines(self, heads: int, groups: int, length: int) -> Tensor:
        assert self.runs.key_index is not None
        return lines(self.runs.key_index[:, None], _heads(groups, self.runs.key_index), groups, length)

    @override
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(q, k, v, *self._bounds(), 0.0, False, False)
        if lse.shape != (q.shape[1], len(q)):  # releases of FlashAttention have differed in it
            raise ValueError(
                f"attention='union' expects the log-sum-exp of FlashAttention as (heads, tokens), here "
                f"{(q.shape[1], len(q))}; torch {torch.__version__} gives {tuple(lse.shape)}; use 'auto' or 'flex'"
            )
        return out, lse.transpose(0, 1)

    @override
    def backward(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout, which there is none of
        unused = torch.empty(0, device=q.device)
        backward, lse = torch.ops.aten._flash_attention_backward, lse.transpose(0, 1).contiguous()
        dq, dk, dv = backward(grad, q, k, v, out, lse, *self._bounds(), 0.0, False, state, unused)
        return dq, dk, dv

    def _bounds(self) -> tuple[Tensor, Tensor, int, int]:
        return self.runs.query_bounds, self.runs.key_bounds, self.runs.longest_query, self.runs.longest_key


def lines(tokens: Tensor, head: Tensor, heads: int, length: int) -> Tensor:
    """Lines of (B * heads * length, d) that hold heads of tokens, given as flat indices into B * length."""
    return tokens + (tokens // length * (heads - 1) + head) * length


def _heads(number: int, index: Tensor) -> Tensor:
    return torch.arange(number, device=index.device)


def calls(visibility: Visibility, parts: tuple[Runs, ...], length: int, device: torch.device) -> list[Call]:
    """The calls that compute parts on a device.

    Args:
        visibility: whose rule says who sees whom in runs with a mask.
        parts: what it shows, on CUDA without masks.
        length: queries and keys of a row.
        device: CPU or CUDA.
    """
    parts = tuple(runs for runs in parts if runs.longest_query)
    if device.type == "cuda":
        return [VarlenCall(runs) for runs in parts]
    rule = visibility.rule()
    return [
        replace(call, seen=_seen(rule, call, length)) if runs.masked else call
        for runs in parts
        for call in _dense_calls(runs)
    ]


def _seen(rule: Rule, call: DenseCall, length: int) -> Tensor:
    """Which pairs of a call see one another, (S, 1, n, m), or (1, 1, n, m) where all runs are alike."""
    query, key = call.queries[:, None, :, None], call.keys[:, None, None]
    row = query // length
    seen = rule(row, torch.zeros_like(row), query % length, key % length)
    return seen[:1].clone() if bool((seen == seen[:1]).all()) else seen


def _dense_calls(runs: Runs) -> list[DenseCall]:
    """Runs of equal lengths together, a long one in pieces of its queries."""
    assert runs.query_index is not None
    assert runs.key_index is not None
    shapes = torch.stack([runs.query_bounds.diff(), runs.key_bounds.diff()], 1)
    found: list[DenseCall] = []
    for queries, keys in shapes.unique(dim=0).tolist():
        same = (shapes == torch.tensor([queries, keys])).all(1).nonzero()[:, 0]
        of_query = runs.query_index[runs.query_bounds[same][:, None] + torch.arange(queries)]
        of_key = runs.key_index[runs.key_bounds[same][:, None] + torch.arange(keys)]
        together = max(1, QUERIES_PER_CALL // queries)
        for some, their in zip(of_query.split(together), of_key.split(together), strict=True):
            found.extend(DenseCall(piece, their) for piece in some.split(QUERIES_PER_CALL, dim=1))
    return found
