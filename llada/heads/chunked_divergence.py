"""The divergence of `llada.heads.interpolated` from the input of a head, so that the logits never exist at once."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.heads.cross_entropy import Head, chunk_rows, vocab_size
from llada.heads.gradients import matmul_dtype, matrix_and_bias, with_gradients
from llada.heads.interpolated import divergence, judge
from llada.heads.noise_law import NoisedTokens


def chunked_divergence(
    head: Head,
    hidden: Tensor,
    noised: NoisedTokens,
    weights: Tensor,
    *,
    cross_entropy: bool = False,
    chunk_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of divergences from the input of the head, a chunk of logits at a time.

    Args:
        head: (n, D) -> (n, V), V at least K.
        hidden: (N, D).
        noised: the N positions.
        weights: (N,), constants.
        cross_entropy: whether the sum to be minimised is that of cross-entropies -log softmax(l)_x instead.
        chunk_elements: logits that may live at once; None for what suits the device.

    Returns:
        The sum, () in nats, differentiable, and the divergences without their weights, (N,) float64 detached.
    """
    if len(hidden) == 0:
        # Nothing is scored, but every parameter stays in the graph: DDP waits for all of their gradients.
        return hidden.sum() + head(hidden).sum(), hidden.new_zeros(0, dtype=torch.float64)
    weights, linear = weights.detach(), matrix_and_bias(head)
    if linear is not None:
        return _of_matrix(hidden, *linear, noised, weights, cross_entropy, chunk_elements)
    parameters = [p for p in head.parameters() if p.requires_grad] if isinstance(head, nn.Module) else None
    rows = chunk_rows(hidden, vocab_size(head, hidden), chunk_elements)
    if parameters is None or rows >= len(hidden) or not torch.is_grad_enabled():
        pairs = [
            divergence(head(hidden[span]), noised.at(span), weights[span], cross_entropy=cross_entropy)
            for span in _spans(len(hidden), rows)
        ]
        return torch.stack([loss for loss, _ in pairs]).sum(), torch.cat([terms for _, terms in pairs])
    of_hidden, gradients, losses, found = torch.empty_like(hidden), [torch.zeros_like(p) for p in parameters], [], []
    for span in _spans(len(hidden), rows):
        h = hidden[span].detach().requires_grad_()
        loss, terms = divergence(head(h), noised.at(span), weights[span], cross_entropy=cross_entropy)
        of_hidden[span], *parts = torch.autograd.grad(loss, [h, *parameters], allow_unused=True)
        for gradient, part in zip(gradients, parts, strict=True):
            if part is not None:
                gradient += part
        losses.append(loss.detach())
        found.append(terms)
    total = torch.stack(losses).sum()
    return with_gradients(total, (hidden, *parameters), (of_hidden, *gradients)), torch.cat(found)


def _of_matrix(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    noised: NoisedTokens,
    weights: Tensor,
    cross_entropy: bool,
    chunk_elements: int | None,
) -> tuple[Tensor, Tensor]:
    """The loss of a head that is one matrix (V, D), of which the K rows of data tokens are used."""
    number = noised.noise_law.num_tokens
    inputs = hidden, matrix, bias
    wanted = [torch.is_grad_enabled() and p is not None and p.requires_grad for p in inputs]
    of_hidden, of_matrix, of_bias = gradients = [
        torch.zeros_like(p) if p is not None and need else None for p, need in zip(inputs, wanted, strict=True)
    ]
    dtype, losses, found = matmul_dtype(hidden), [], []
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        used, shift = matrix[:number].to(dtype), None if bias is None else bias[:number].to(dtype)
        for span in _spans(len(hidden), chunk_rows(hidden, number, chunk_elements)):
            h = hidden[span].to(dtype)
            z = F.linear(h, used, shift)
            z = z if z.dtype == torch.float64 else z.float()
            loss, terms = judge(z, noised.at(span), weights[span], cross_entropy=cross_entropy, gradient=any(wanted))
            losses.append(loss)
            found.append(terms)
            if of_bias is not None:
                of_bias[:number] += z.sum(0)
            dz = z.to(dtype)
            if of_hidden is not None:
                of_hidden[span] = dz @ used
            if of_matrix is not None and of_matrix.dtype == dtype:
                of_matrix[:number].addmm_(dz.T, h)
            elif of_matrix is not None:
                of_matrix[:number] += dz.T @ h
            del z, dz  # before the next chunk's logits are made
        total = torch.stack(losses).sum()
    return with_gradients(total, inputs, gradients), torch.cat(found)


def _spans(length: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, length, rows))
