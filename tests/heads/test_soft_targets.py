"""The divergence from another model: value and gradient are autograd's, and no logits live beyond their chunk."""

import pytest
import torch
from torch import Tensor, nn

from llada.heads.soft_targets import soft_target_loss

ROWS, WIDTH, VOCAB = 11, 6, 9


def parts(bias: bool = True) -> tuple[nn.Linear, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, bias=bias, dtype=torch.float64)
    hidden = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = 2.0 * torch.randn(ROWS, VOCAB, dtype=torch.float64, generator=generator)
    weights = torch.rand(ROWS, dtype=torch.float64, generator=generator)
    return head, hidden, teacher, weights, torch.randint(VOCAB - 1, (ROWS,), generator=generator)


def plain(head: nn.Module, hidden: Tensor, teacher: Tensor, suppressed: int | None) -> tuple[Tensor, Tensor]:
    kept = [token for token in range(VOCAB) if token != suppressed]
    log_p, log_q = (logits[:, kept].log_softmax(-1) for logits in (teacher, head(hidden)))
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1), log_q


@pytest.mark.parametrize("suppressed", [None, VOCAB - 1])
@pytest.mark.parametrize("chunk", [1, 3 * VOCAB, None])
def test_value_and_gradient_are_autograds(chunk: int | None, suppressed: int | None) -> None:
    head, hidden, teacher, weights, labels = parts(bias=suppressed is None)
    expected, log_q = plain(head, hidden, teacher, suppressed)
    wanted = torch.autograd.grad(3.0 * (expected * weights).sum(), [hidden, *head.parameters()])
    given = head, hidden, lambda rows: teacher[rows], weights, labels, suppressed
    found = soft_target_loss(*given, chunk_elements=chunk)
    torch.testing.assert_close(found.terms, expected.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.nll, -log_q.gather(1, labels[:, None])[:, 0].detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.total, (expected * weights).sum().detach(), rtol=1e-12, atol=1e-14)
    for one, other in zip(torch.autograd.grad(3.0 * found.total, [hidden, *head.parameters()]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        silent = soft_target_loss(*given)
    torch.testing.assert_close(silent.total, found.total.detach(), rtol=1e-12, atol=1e-14)
    assert not silent.total.requires_grad


def test_a_teacher_that_is_certain_gives_the_cross_entropy_of_its_token() -> None:
    head, hidden, _, weights, labels = parts()
    certain = torch.full((ROWS, VOCAB), -torch.inf, dtype=torch.float64).scatter(1, labels[:, None], 0.0)
    found = soft_target_loss(head, hidden, lambda rows: certain[rows], weights, labels)
    expected = nn.functional.cross_entropy(head(hidden), labels, reduction="none")
    torch.testing.assert_close(found.terms, expected.detach())
    torch.testing.assert_close(found.terms, found.nll)
    wanted = torch.autograd.grad((expected * weights).sum(), hidden)
    torch.testing.assert_close(torch.autograd.grad(found.total, hidden), wanted)


def test_a_student_that_is_its_teacher_has_no_divergence_and_no_gradient() -> None:
    head, hidden, _, weights, labels = parts()
    logits = head(hidden).detach()
    found = soft_target_loss(head, hidden, lambda rows: logits[rows], weights, labels)
    assert float(found.terms.abs().max()) < 1e-14
    assert float(torch.autograd.grad(found.total, hidden)[0].abs().max()) < 1e-14


def test_no_rows_leave_every_parameter_in_the_graph() -> None:
    head, hidden, teacher, weights, labels = parts()
    found = soft_target_loss(head, hidden[:0], lambda rows: teacher[rows], weights[:0], labels[:0])
    found.total.backward()
    assert found.terms.shape == found.nll.shape == (0,)
    assert head.weight.grad is not None
