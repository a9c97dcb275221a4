"""The loss of a vocabulary head, whose gradient is made while a chunk's logits are there.

    total = sum_n weight_n nll_n,   nll_n = log sum_v exp z_nv - z_n,target(n),   z = head(h)

    d total / d z_nv = weight_n (softmax(z_n)_v - [v = target_n])

The weights are known before the forward pass, so each chunk of logits becomes its own gradient in place, and is
computed once. The ways to compute the loss differ in speed and memory, and agree in value and gradient:

| | runs on | logits computed | leaves a token out |
|---|---|---|---|
| `Chunked` | everything, tensor parallelism included | once | yes |
| `llada.heads.kernels.TorchLinear` | PyTorch 2.13 and newer | twice | yes |
| `llada.heads.kernels.CutCrossEntropy` | CUDA, extra ``kernels`` | twice, never stored | no |
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.heads.chunked_divergence import chunked_divergence
from llada.heads.cross_entropy import chunk_rows, chunked_nll, nll, vocab_size
from llada.heads.gradients import matmul_dtype, matrix_and_bias, with_gradients
from llada.heads.noise_law import NoisedTokens


class HeadLoss(ABC):
    """A weighted sum of negative log-likelihoods, from the input of the head."""

    @abstractmethod
    def __call__(
        self, head: Any, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss.

        Args:
            head: (n, D) -> (n, V).
            hidden: (N, D).
            targets: (N,) int64.
            weights: (N,), constants.
            suppressed: a token that the softmax leaves out (its logit counts as minus infinity), or None.

        Returns:
            The sum, () in nats, differentiable, and the terms nll_n without their weights, (N,) detached.
        """

    def interpolated(
        self, head: Any, hidden: Tensor, noised: NoisedTokens, weights: Tensor, *, cross_entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The loss under noise that also draws random tokens; arguments as in `chunked_divergence`.

        Raises:
            ValueError: if this way of computing it knows cross-entropies only.
        """
        raise ValueError(
            f"{type(self).__name__} computes cross-entropies of masked tokens only; use head_loss=Chunked() with a "
            "process that also draws random tokens"
        )


@dataclass(frozen=True)
class Chunked(HeadLoss):
    """This library's own: a chunk of rows at a time, value and gradient together.

    Args:
        chunk_elements: logits that may live at once; None for what suits the device.

    Examples:
        >>> import torch
        >>> from llada.heads import Chunked
        >>> head = torch.nn.Linear(4, 1000, bias=False)
        >>> _ = torch.nn.init.zeros_(head.weight)  # every token has the probability 1 / 1000
        >>> hidden, targets = torch.ones(6, 4), torch.arange(6)
        >>> total, nll = Chunked(chunk_elements=2000)(head, hidden, targets, weights=torch.full((6,), 0.5))
        >>> total, nll[0]  # three chunks of two rows; 0.5 * 6 * log 1000
        (tensor(20.7233, grad_fn=<_GradientsMadeBackward>), tensor(6.9078))
    """

    chunk_elements: int | None = None

    @override
    def __call__(
        self, head: Any, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        linear = matrix_and_bias(head)
        if linear is None or len(hidden) == 0 or not torch.is_grad_enabled():
            return self._of_any_head(head, hidden, targets, weights.detach(), suppressed)
        inputs = hidden, *linear
        gradients = [None if p is None or not p.requires_grad else torch.zeros_like(p) for p in inputs]
        of_hidden, of_matrix, of_bias = gradients
        rows, dtype = chunk_rows(hidden, len(linear[0]), self.chunk_elements), matmul_dtype(hidden)
        terms = []
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            matrix, bias = linear[0].to(dtype), None if linear[1] is None else linear[1].to(dtype)
            # One buffer for all chunks: the system would take a large one back, and clear it anew each time.
            logits = hidden.new_empty(min(rows, len(hidden)), len(matrix), dtype=dtype)
            for start in range(0, len(hidden), rows):
                span = slice(start, start + rows)
                h, target = hidden[span].to(dtype), targets[span, None]
                z = logits[: len(h)]
                if bias is None:
                    torch.mm(h, matrix.T, out=z)
                else:
                    torch.addmm(bias, h, matrix.T, out=z)
                z = z if z.dtype == torch.float64 else z.float()
                if suppressed is not None:
                    z[:, suppressed] = -torch.inf
                of_target, top = z.gather(1, target), z.amax(1, keepdim=True)
                mass = z.sub_(top).exp_().sum(1, keepdim=True)
                terms.append((mass.log() + top - of_target)[:, 0])
                weight = weights[span, None].to(z)
                dz = z.mul_(weight / mass).scatter_add_(1, target, -weight)
                if of_bias is not None:
                    of_bias += dz.sum(0)
                dz = dz.to(dtype)
                if of_hidden is not None:
                    of_hidden[span] = dz @ matrix
                if of_matrix is not None and of_matrix.dtype == dtype:
                    of_matrix.addmm_(dz.T, h)
                elif of_matrix is not None:
                    of_matrix += dz.T @ h
                del z, dz  # before the next chunk's logits are made
        return _summed(terms, weights, inputs, gradients)

    @override
    def interpolated(
        self, head: Any, hidden: Tensor, noised: NoisedTokens, weights: Tensor, *, cross_entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        return chunked_divergence(
            head, hidden, noised, weights, cross_entropy=cross_entropy, chunk_elements=self.chunk_elements
        )

    def _of_any_head(
        self, head: Any, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None
    ) -> tuple[Tensor, Tensor]:
        """The loss where autograd must go through the head, or no gradient is wanted; ``weights`` are detached."""
        if len(hidden) == 0:
            # Nothing is masked, but every parameter stays in the graph: DDP waits for all of their gradients.
            return hidden.sum() + head(hidden).sum(), hidden.new_zeros(0, dtype=torch.float32)
        rows = chunk_rows(hidden, vocab_size(head, hidden), self.chunk_elements)
        if rows >= len(hidden) or not torch.is_grad_enabled() or not isinstance(head, nn.Module):
            found = chunked_nll(head, hidden, targets, suppressed, chunk_elements=self.chunk_elements)
            return (found * weights.to(found)).sum(), found.detach()
        wanted = [p for p in head.parameters() if p.requires_grad]
        of_hidden, gradients, terms = torch.empty_like(hidden), [torch.zeros_like(p) for p in wanted], []
        for start in range(0, len(hidden), rows):
            span = slice(start, start + rows)
            h = hidden[span].detach().requires_grad_()
            value = nll(head(h), targets[span], suppressed)
            total = (value * weights[span].to(value)).sum()
            of_hidden[span], *parts = torch.autograd.grad(total, [h, *wanted], allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                if part is not None:
                    gradient += part
            terms.append(value.detach())
        return _summed(terms, weights, (hidden, *wanted), (of_hidden, *gradients))


def _summed(
    terms: list[Tensor], weights: Tensor, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The weighted sum, which has these gradients with respect to the inputs, and the terms."""
    with torch.no_grad():
        found = torch.cat(terms)
        total = (found * weights.to(found)).sum()
    return with_gradients(total, inputs, gradients), found
