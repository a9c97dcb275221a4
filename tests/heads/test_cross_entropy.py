"""Chunked cross-entropy equals the plain formula, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones.transformer import TiedHead
from llada.heads.cross_entropy import (
    ACCELERATOR_CHUNK_ELEMENTS,
    CHUNK_ELEMENTS,
    LEAST_ROWS,
    chunk_rows,
    chunked_nll,
    nll,
)
from llada.heads.head_loss import Chunked

N, D, V = 11, 4, 7


def problem(bias: bool = True) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    head = nn.Linear(D, V, bias=bias, dtype=torch.float64)
    hidden = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    return head, hidden, torch.randint(V - 1, (N,)), torch.rand(N, dtype=torch.float64) + 0.1


def plain(head: nn.Module, hidden: Tensor, targets: Tensor, suppressed: int | None) -> Tensor:
    logits = head(hidden)
    kept = [v for v in range(V) if v != suppressed]
    return logits[:, kept].logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 3 * V, 1000])
@pytest.mark.parametrize("suppressed", [None, V - 1])
def test_values(chunk: int, suppressed: int | None) -> None:
    head, hidden, targets, weights = problem()
    expected = plain(head, hidden, targets, suppressed)
    torch.testing.assert_close(nll(head(hidden), targets, suppressed), expected)
    torch.testing.assert_close(chunked_nll(head, hidden, targets, suppressed, chunk_elements=chunk), expected)
    total, terms = Chunked(chunk)(head, hidden, targets, weights, suppressed)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(total, (weights * expected).sum())
    with torch.no_grad():
        total, terms = Chunked(chunk)(head, hidden, targets, weights, suppressed)
        torch.testing.assert_close(total, (weights * expected).sum())
        torch.testing.assert_close(chunked_nll(head, hidden, targets, suppressed, chunk_elements=chunk), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("bias", "suppressed"), [(False, None), (True, 8)])
def test_no_gradient_changes_no_number(dtype: torch.dtype, bias: bool, suppressed: int | None) -> None:
    """A likelihood is compared with that of training to the last bit, and takes no more memory."""
    head = nn.Linear(24, 33, bias=bias, dtype=dtype)
    hidden, targets = torch.randn(50, 24, dtype=dtype), torch.randint(8, (50,))
    with_gradient = chunked_nll(head, hidden, targets, suppressed, chunk_elements=33 * 16)
    with torch.no_grad():
        found = chunked_nll(head, hidden, targets, suppressed, chunk_elements=33 * 16)
    assert found.dtype == with_gradient.dtype
    assert torch.equal(found, with_gradient)


@pytest.mark.parametrize("chunk", [1, 3 * V, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients(chunk: int, bias: bool) -> None:
    head, hidden, targets, weights = problem(bias)
    inputs = (hidden, *head.parameters())

    def gradients(total: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(3.0 * total, inputs)

    expected = gradients((plain(head, hidden, targets, None) * weights).sum())
    ours = gradients(Chunked(chunk)(head, hidden, targets, weights)[0])
    terms = gradients((chunked_nll(head, hidden, targets, chunk_elements=chunk) * weights).sum())
    for a, b, c in zip(ours, terms, expected, strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, c)


@pytest.mark.parametrize("chunk", [2 * V, 1000])
def test_gradcheck(chunk: int) -> None:
    head, hidden, targets, weights = problem()
    weight, bias = head.weight, head.bias

    def total(h: Tensor, _: Tensor, __: Tensor) -> Tensor:
        return Chunked(chunk)(head, h, targets, weights, V - 1)[0]

    assert torch.autograd.gradcheck(total, (hidden, weight, bias))


def test_a_tied_head_gets_its_gradient() -> None:
    embedding = nn.Embedding(V, D, dtype=torch.float64)
    head = TiedHead(embedding)
    tokens = torch.randint(V, (N,))
    targets, weights = torch.randint(V, (N,)), torch.rand(N, dtype=torch.float64)
    total, _ = Chunked(2 * V)(head, embedding(tokens), targets, weights)
    logits = F.linear(embedding(tokens), embedding.weight)
    expected = (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
    (ours,) = torch.autograd.grad(total, embedding.weight)
    (theirs,) = torch.autograd.grad(expected, embedding.weight)
    torch.testing.assert_close(ours, theirs)


def test_frozen_head_and_frozen_body() -> None:
    head, hidden, targets, weights = problem()
    head.requires_grad_(False)
    Chunked(2 * V)(head, hidden, targets, weights)[0].backward()
    assert hidden.grad is not None
    head.requires_grad_(True)
    Chunked(2 * V)(head, hidden.detach(), targets, weights)[0].backward()
    assert head.weight.grad is not None


def test_no_rows_give_zero_and_a_gradient_for_every_parameter() -> None:
    head, hidden, targets, weights = problem()
    total, terms = Chunked()(head, hidden[:0], targets[:0], weights[:0])
    total.backward()
    assert float(total) == 0.0
    assert terms.shape == (0,)
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_chunks_never_hold_more_logits_than_asked() -> None:
    seen = []

    class Head(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    head = Head(D, V)
    hidden = torch.randn(100, D, requires_grad=True)
    total, _ = Chunked(5 * V)(head, hidden, torch.zeros(100, dtype=torch.long), torch.ones(100))
    total.backward()
    assert max(seen) == 5
    assert sum(seen) == 101  # one row asks for the vocabulary's size; the backward pass computes nothing again


class Doubled(nn.Linear):
    """A head whose formula is its own."""

    def forward(self, hidden: Tensor) -> Tensor:
        return 2.0 * super().forward(hidden)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("suppressed", [None, V - 1])
@pytest.mark.parametrize("cls", [nn.Linear, Doubled])
def test_gradients_of_a_matrix_and_of_any_other_head(cls: type[nn.Linear], suppressed: int | None, bias: bool) -> None:
    _, hidden, targets, weights = problem()
    head = cls(D, V, bias, dtype=torch.float64)
    expected = (weights * plain(head, hidden, targets, suppressed)).sum()
    total, _ = Chunked(3 * V)(head, hidden, targets, weights, suppressed)
    places = [hidden, *head.parameters()]
    torch.testing.assert_close(torch.autograd.grad(7.0 * total, places), torch.autograd.grad(7.0 * expected, places))


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    head, hidden, targets, weights = problem()
    expected = torch.autograd.grad((weights * plain(head, hidden, targets, None)).sum(), hidden)
    head.requires_grad_(False)
    total, _ = Chunked(3 * V)(head, hidden, targets, weights)
    assert sum(saved is not None for saved in total.grad_fn.saved_tensors) == 1
    torch.testing.assert_close(torch.autograd.grad(total, hidden), expected)


def test_autocast_keeps_float32_gradients_near_the_exact_ones() -> None:
    head, hidden, targets, weights = problem()
    head, hidden = head.float(), hidden.detach().float().requires_grad_()
    expected = torch.autograd.grad((weights * plain(head, hidden, targets, None)).sum(), [hidden, head.weight])
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = Chunked(3 * V)(head, hidden, targets, weights)
    found = torch.autograd.grad(total, [hidden, head.weight])
    assert {part.dtype for part in (total, terms, *found)} <= {torch.float32, torch.float64}
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_rows_of_a_chunk() -> None:
    hidden = torch.empty(100_000, 1, device="meta")
    assert chunk_rows(hidden, 126_464, None) == ACCELERATOR_CHUNK_ELEMENTS // 126_464
    assert chunk_rows(torch.empty(1000, 1), 32_000, None) == CHUNK_ELEMENTS // 32_000
    assert chunk_rows(torch.empty(1000, 1), 126_464, None) == LEAST_ROWS
    assert chunk_rows(hidden, 10, 55) == 5
    assert chunk_rows(hidden, 10, 5) == 1
    assert chunk_rows(hidden[:3], 10, 55) == 3
